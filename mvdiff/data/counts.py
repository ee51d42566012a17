"""The check of settings that count something."""


def check_counts(**counts: int | None) -> None:
    """Check that settings are at least 1, or None.

    Raises:
        ValueError: One is less than 1.
    """
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}.")
