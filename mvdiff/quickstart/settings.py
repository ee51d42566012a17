"""What a quickstart does and how much of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

BASE = "mvdiff://toy-base"
PACKAGED_CAA = Path(__file__).parents[1] / "assets" / "toy-caa"


@dataclass(frozen=True)
class QuickstartSettings:
    """Sizes and seeds of a quickstart, whatever its task; the defaults are those of the panoramas.

    Attributes:
        out: Folder that receives everything.
        seed: Of data, training and noise.
        rooms: Rooms of the toy world.
        test_rooms: How many of them are held out, to be generated from their captions.
        max_steps: Optimizer steps of the training from scratch.
        continue_steps: Optimizer steps by which the packaged attention is trained further.
        num_validations: Points on the curve of each training.
        num_inference_steps: Denoising steps of every sample.
        guidance_scale: Classifier-free guidance of every sample.
        batch_size: Samples at once; a control borrows neighbours from within the batch.
        num_workers: Processes that draw the toy world.
    """

    trained_worlds: ClassVar[tuple[int, ...]] = (1,)
    """Seeds of the toy worlds on which the packaged weights were trained (docs/toy-base.md)."""

    out: Path = Path("quickstart")
    seed: int = 0
    rooms: int = 160
    test_rooms: int = 16
    max_steps: int = 120
    continue_steps: int = 30
    num_validations: int = 3
    num_inference_steps: int = 20
    guidance_scale: float = 2.0
    batch_size: int = 4
    num_workers: int = 2

    def check(self) -> Self:
        """Return the settings, or raise ValueError where they cannot work."""
        if self.batch_size < 2 or self.test_rooms % self.batch_size:
            raise ValueError(
                f"test_rooms must be a multiple of batch_size, which must be at least 2; got {self.test_rooms} and "
                f"{self.batch_size}. One control takes its neighbours from another sample of the batch."
            )
        if self.seed in self.trained_worlds:
            raise ValueError(
                f"seed must not be {self.seed}, a world on which the packaged weights were trained; its rooms are not "
                "held out. Choose another."
            )
        if self.max_steps < self.num_validations or self.num_validations < 1:
            raise ValueError(
                f"max_steps must be at least num_validations, and that at least 1; got {self.max_steps} and "
                f"{self.num_validations}. Train longer or validate less often."
            )
        return self

    @property
    def samples(self) -> Path:
        """The folder that holds one folder of samples per method."""
        return self.out / "samples"


@dataclass(frozen=True)
class Settings(QuickstartSettings):
    """Sizes and seeds of the panorama quickstart; the defaults are the embedded default job."""

    @property
    def data_root(self) -> Path:
        """The Matterport3D folder of the toy world."""
        return self.out / "data" / "mp3d_skybox"
