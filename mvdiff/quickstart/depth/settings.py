"""What the depth quickstart does and how much of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from mvdiff.quickstart.settings import QuickstartSettings

BASE = "mvdiff://toy-depth-base"
ADAPTER = "mvdiff://toy-depth"
HEIGHT, WIDTH = 48, 64


@dataclass(frozen=True)
class DepthSettings(QuickstartSettings):
    """Sizes and seeds of the depth quickstart; the defaults are the embedded default job.

    Attributes:
        base: Depth base that stage 1 trains further.
        adapter: Model folder whose attention and image conditions are trained further; "" uses those trained here.
        num_frames: Frames of a walk through a room.
        arc_deg: How far around the room a walk goes; less gives closer frames.
        num_views: Frames at once.
        stage1_steps: Optimizer steps of stage 1, a base on single frames.
        sequences: Held-out rooms of which all frames are made: key frames, then those between.
    """

    trained_worlds: ClassVar[tuple[int, ...]] = (1, 3)

    out: Path = Path("quickstart-depth")
    rooms: int = 28
    test_rooms: int = 8
    max_steps: int = 64
    continue_steps: int = 12
    num_validations: int = 2
    num_inference_steps: int = 16
    batch_size: int = 2
    base: str = BASE
    adapter: str = ADAPTER
    num_frames: int = 48
    arc_deg: float = 192.0
    num_views: int = 12
    stage1_steps: int = 24
    sequences: int = 1

    def check(self) -> Self:
        """Return the settings, or raise ValueError where they cannot work."""
        super().check()
        if not 1 <= self.sequences <= self.test_rooms:
            raise ValueError(
                f"sequences must be between 1 and test_rooms ({self.test_rooms}); got {self.sequences}. They are of "
                "held-out rooms."
            )
        if self.num_views < 3:
            raise ValueError(
                f"num_views must be at least 3, two given frames and one between; got {self.num_views}. The paper has "
                "12."
            )
        if self.stage1_steps < self.num_validations:
            raise ValueError(
                f"stage1_steps must be at least num_validations ({self.num_validations}); got {self.stage1_steps}. "
                "Train longer or validate less often."
            )
        return self

    @property
    def data_root(self) -> Path:
        """The ScanNet folder of the toy world."""
        return self.out / "data" / "scannet"
