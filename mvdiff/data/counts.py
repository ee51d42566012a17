"""Validation of counts."""


def check_counts(**counts: int | None) -> None:
    """Check that every named setting is at least 1, or None.

    Raises:
        ValueError: A setting is below 1.
    """
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}.")
