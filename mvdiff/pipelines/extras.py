"""Optional libraries, which some features need and the package does not install by default."""

from importlib.util import find_spec


def require(library: str, what: str) -> None:
    """Raise ValueError if an optional library is not installed.

    Args:
        library: Name of the library.
        what: Feature that needs it, for the error message.
    """
    if find_spec(library) is None:
        raise ValueError(
            f"{what} requires the library {library}, which is not installed. "
            "Run `pip install accelerate peft`, or install mvdiff[pipelines]."
        )
