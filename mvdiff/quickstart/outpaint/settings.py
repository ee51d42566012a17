"""What the outpainting quickstart does and how much of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from mvdiff.quickstart.settings import Settings

CONFIG, BASE_CONFIG = "toy/outpaint.yaml", "toy/inpainting_base.yaml"


@dataclass(frozen=True)
class OutpaintSettings(Settings):
    """Sizes and seeds of the outpainting quickstart; the defaults are the embedded default job.

    Attributes:
        base: Toy inpainting base, which does not come with this version: the folder that `BASE_CONFIG` writes.
        adapter: Model folder whose attention is trained further, by default that of text to panorama; "" uses the one
            trained here from scratch.
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
    base: str = "runs/toy/toy-inpainting-base"
    adapter: str = "mvdiff://toy-caa"
    pictures: int = 4
    fov_deg: float = 65.0
    yaw_deg: float = 20.0
    pitch_deg: float = 5.0

    def check(self) -> Self:
        """Return the settings; raise ValueError where they cannot work, FileNotFoundError without a base."""
        super().check()
        if not (Path(self.base) / "unet").is_dir():
            raise FileNotFoundError(
                f"base must be the folder of a toy inpainting base, none of which comes with this version; got "
                f"{self.base!r}, which is none. Make one with `mvdiff data toyworld runs/toy/world --rooms 700 "
                f"--test_rooms 60 --seed 1 --num_frames 0` and `mvdiff fit --config {BASE_CONFIG}`, which writes it to "
                "runs/toy/toy-inpainting-base."
            )
        if not 1 <= self.pictures <= self.test_rooms:
            raise ValueError(
                f"pictures must be between 1 and test_rooms ({self.test_rooms}); got {self.pictures}. They are of "
                "held-out rooms."
            )
        return self
