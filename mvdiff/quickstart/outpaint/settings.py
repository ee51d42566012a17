"""What the outpainting quickstart does and how much of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from mvdiff.quickstart.settings import Settings

CONFIG = "toy/outpaint.yaml"


@dataclass(frozen=True)
class OutpaintSettings(Settings):
    """Sizes and seeds of the outpainting quickstart; the defaults are the embedded default job.

    Attributes:
        base: Inpainting base of the toy's size.
        adapter: Model folder whose attention is trained further; "" uses the one trained here from scratch.
        pictures: Held-out rooms that are also made around a picture which no view shows as a whole.
        fov_deg: Horizontal field of view of that picture, which is wider than high, in degrees.
        yaw_deg: Where its middle looks.
        pitch_deg: Upwards.
    """

    out: Path = Path("quickstart-outpaint")
    rooms: int = 80
    test_rooms: int = 12
    max_steps: int = 60
    continue_steps: int = 12
    base: str = "mvdiff://toy-inpainting-base"
    adapter: str = "mvdiff://toy-outpaint"
    pictures: int = 4
    fov_deg: float = 65.0
    yaw_deg: float = 20.0
    pitch_deg: float = 5.0

    def check(self) -> Self:
        """Return the settings, or raise ValueError where they cannot work."""
        super().check()
        if not 1 <= self.pictures <= self.test_rooms:
            raise ValueError(
                f"pictures must be between 1 and test_rooms ({self.test_rooms}); got {self.pictures}. They are of "
                "held-out rooms."
            )
        return self
