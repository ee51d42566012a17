"""Libraries that some features need and the package does not install by itself."""

from importlib.util import find_spec


def require(library: str, what: str) -> None:
    """Check that an optional library is there.

    Args:
        library: Name for pip and for import.
        what: Feature that needs it.

    Raises:
        ValueError: It is not installed.

    Example:
        >>> require("torch", "everything")
    """
    if find_spec(library) is None:
        raise ValueError(
            f"{what} must have the library {library}; got an installation without it. "
            "Run `pip install accelerate peft`, or install mvdiff[pipelines]."
        )
