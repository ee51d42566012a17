"""Settings of the recipes, free of torch; the string under a field is its help on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, get_args

Precision = Literal["auto", "32-true", "bf16-mixed"]
PRECISIONS = get_args(Precision)


@dataclass(frozen=True, kw_only=True)
class RecipeSettings:
    """Sizes and seeds of a recipe on a toy world."""

    trained_worlds: ClassVar[tuple[int, ...]] = (1,)
    """Seeds of the toy worlds on which the packaged weights were trained (notes/toy-models.md)."""

    out: Path = Path("quickstart")
    """folder that receives everything"""
    seed: int = 0
    """random seed of data, training and noise"""
    rooms: int = 160
    """rooms of the toy world, for training and test together"""
    test_rooms: int = 16
    """rooms among --rooms that are kept for the test: generated and scored; a multiple of --batch_size"""
    max_steps: int = 120
    """optimizer steps of the first training, from scratch"""
    continue_steps: int = 30
    """optimizer steps of the second training, which starts from the packaged weights and gives the pictures; 0 skips it
    and uses the training from scratch"""
    num_validations: int = 3
    """validations of each training, the points of its curve"""
    num_inference_steps: int = 20
    """denoising steps"""
    guidance_scale: float = 2.0
    """classifier-free guidance scale"""
    batch_size: int = 4
    """samples generated in parallel, at least 2: one control takes its neighbours from another sample of the batch"""
    num_workers: int = 2
    """processes that draw the toy world"""
    precision: Precision = "auto"
    """compute precision of training and sampling, 32-true or bf16-mixed (Lightning's names); auto takes bf16-mixed
    where the processor multiplies in bfloat16, about half the time; metrics are always computed in float32"""

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}; got {self.precision!r}.")
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

    @property
    def num_validation_rooms(self) -> int:
        """Training rooms that are kept for validation: a quarter of them, eight at most."""
        return min(8, max(1, (self.rooms - self.test_rooms) // 4))


@dataclass(frozen=True, kw_only=True)
class PanoramaSettings(RecipeSettings):
    """Sizes and seeds of the panorama quickstart."""

    base: ClassVar[str] = "mvdiff://toy-base"
    init_adapter: ClassVar[str] = "mvdiff://toy-caa"


@dataclass(frozen=True, kw_only=True)
class OutpaintSettings(RecipeSettings):
    """Sizes and seeds of the outpainting quickstart."""

    out: Path = Path("quickstart-outpaint")
    rooms: int = 80
    test_rooms: int = 12
    max_steps: int = 60
    continue_steps: int = 12
    base: str = "mvdiff://toy-inpainting-base"
    """inpainting base of the toy's size"""
    init_adapter: str = "mvdiff://toy-outpaint"
    """model folder whose attention is trained further; "" uses the one trained here from scratch"""
    pictures: int = 4
    """test rooms that are also generated from a picture that lies between views, as a photo does"""
    fov: float = 65.0
    """horizontal field of view of that picture (4:3) in degrees"""
    yaw: float = 20.0
    """direction of its centre in degrees to the right"""
    pitch: float = 5.0
    """direction of its centre in degrees upwards"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.pictures <= self.test_rooms:
            raise ValueError(f"pictures must be between 1 and test_rooms ({self.test_rooms}); got {self.pictures}.")


@dataclass(frozen=True, kw_only=True)
class DepthSettings(RecipeSettings):
    """Sizes and seeds of the depth quickstart."""

    trained_worlds: ClassVar[tuple[int, ...]] = (1, 3)

    out: Path = Path("quickstart-depth")
    rooms: int = 28
    test_rooms: int = 8
    max_steps: int = 64
    continue_steps: int = 12
    num_validations: int = 2
    num_inference_steps: int = 16
    batch_size: int = 2
    precision: Precision = "auto"
    """compute precision of sampling, 32-true or bf16-mixed (Lightning's names); auto takes bf16-mixed where the
    processor multiplies in bfloat16; trainings and metrics are always computed in float32"""
    base: str = "mvdiff://toy-depth-base"
    """depth base that stage 1 trains further"""
    init_adapter: str = "mvdiff://toy-depth"
    """model folder whose attention and image conditions are trained further; "" uses those trained here from scratch"""
    num_frames: int = 48
    """frames of a walk through a room"""
    arc_deg: float = 192.0
    """degrees that a walk goes around the room; less gives closer frames"""
    num_views: int = 12
    """frames generated together"""
    stage1_steps: int = 24
    """optimizer steps of stage 1, which trains a base on single frames"""
    sequences: int = 1
    """test rooms of which all frames are generated: key frames, then those between"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.sequences <= self.test_rooms:
            raise ValueError(f"sequences must be between 1 and test_rooms ({self.test_rooms}); got {self.sequences}.")
        if self.num_views < 3:
            raise ValueError(
                f"num_views must be at least 3, two key frames and one between; got {self.num_views}. The paper has 12."
            )
        if self.stage1_steps < self.num_validations:
            raise ValueError(
                f"stage1_steps must be at least num_validations ({self.num_validations}); got {self.stage1_steps}. "
                "Train longer or validate less often."
            )
