"""Libraries that some features need and the package does not install by itself."""

from importlib.util import find_spec


def require(library: str, what: str) -> None:
    """Raise ValueError where an optional library that a feature needs is not installed."""
    if find_spec(library) is None:
        raise ValueError(
            f"{what} must have the library {library}; got an installation without it. "
            "Run `pip install accelerate peft`, or install mvdiff[pipelines]."
        )
