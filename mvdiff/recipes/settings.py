"""Settings of the recipes, free of torch; the string under a field is its help on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, get_args

PANORAMA_ADAPTERS = {"mvdiff://toy-base": "mvdiff://toy-caa", "mvdiff://toy-dit-base": "mvdiff://toy-dit-caa"}
"""Packaged attention layers for panoramas, by the base that they were trained on."""
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
    """random seed of data, training and noise; not 1, the seed of the rooms that the packaged weights were trained
    on"""
    rooms: int = 160
    """total number of toy rooms, for training and test"""
    test_rooms: int = 16
    """how many of --rooms to hold out, generate and score; a multiple of --batch_size"""
    max_steps: int = 36
    """optimizer steps of the first training, from scratch"""
    continue_steps: int = 8
    """optimizer steps of the second training, which continues from the packaged weights and makes the final samples; 0:
    skip it and sample from the first training"""
    num_validations: int = 2
    """validations of the training from scratch, each one point of its curves (the second training: one, at its end); at
    least 1, at most --max_steps"""
    num_inference_steps: int = 8
    """denoising steps"""
    guidance_scale: float = 2.0
    """classifier-free guidance scale"""
    batch_size: int = 4
    """samples per training step, and samples generated in parallel; at least 2, because one comparison attends to
    another sample's views"""
    num_workers: int = 2
    """toy rooms rendered in parallel"""
    precision: Precision = "auto"
    """precision of training and sampling; auto: bf16-mixed on processors with bfloat16 multiplication (about twice as
    fast), else 32-true; metrics always use float32"""

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

    base: str = "mvdiff://toy-base"
    """frozen base to train on: mvdiff://toy-base, a UNet, mvdiff://toy-dit-base, a transformer, or a folder of such a
    base, on which attention is trained from scratch alone"""

    @property
    def init_adapter(self) -> str:
        """Model whose attention layers the second training continues from; "" for a base without one."""
        return PANORAMA_ADAPTERS.get(self.base, "")


@dataclass(frozen=True, kw_only=True)
class OutpaintSettings(RecipeSettings):
    """Sizes and seeds of the outpainting quickstart."""

    out: Path = Path("quickstart-outpaint")
    rooms: int = 80
    test_rooms: int = 12
    max_steps: int = 20
    continue_steps: int = 6
    base: str = "mvdiff://toy-inpainting-base"
    """frozen base to train on: `mvdiff://` name or folder of an inpainting base with the packaged toy's architecture"""
    init_adapter: str = "mvdiff://toy-outpaint"
    """model folder whose attention layers training continues from; "": use the layers trained from scratch in this
    run"""
    pictures: int = 4
    """number of test rooms, from the first on, that are outpainted a second time, from a simulated photo (--fov, --yaw,
    --pitch) in place of a complete view; 1 to --test_rooms"""
    fov: float = 65.0
    """horizontal field of view of the simulated photos (4:3) in degrees, between 0 and 180"""
    yaw: float = 20.0
    """direction of the photos' centre in degrees to the right of view 0, -360 to 360"""
    pitch: float = 5.0
    """direction of the photos' centre in degrees upwards, -90 to 90"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.pictures <= self.test_rooms:
            raise ValueError(f"pictures must be between 1 and test_rooms ({self.test_rooms}); got {self.pictures}.")


@dataclass(frozen=True, kw_only=True)
class DepthSettings(RecipeSettings):
    """Sizes and seeds of the depth quickstart."""

    trained_worlds: ClassVar[tuple[int, ...]] = (1, 3)

    out: Path = Path("quickstart-depth")
    seed: int = 0
    """random seed of data, training and noise; not 1 or 3, the seeds of the rooms that the packaged weights were
    trained on"""
    rooms: int = 28
    test_rooms: int = 8
    max_steps: int = 24
    """optimizer steps of stage 2 from scratch"""
    continue_steps: int = 6
    """optimizer steps of stage 2 continued from the packaged weights, which makes the final samples; 0: skip it and
    sample from stage 2 from scratch"""
    num_validations: int = 2
    """validations per training, each one point of the loss curve (the continued stage 2: one, at its end); at least 1,
    at most --max_steps and --stage1_steps"""
    num_inference_steps: int = 8
    batch_size: int = 2
    """samples per step of stage 2 (from scratch: twice as many), and samples generated in parallel; at least 2, because
    one comparison attends to another sample's views"""
    precision: Precision = "auto"
    """precision of sampling; auto: bf16-mixed on processors with bfloat16 multiplication, else 32-true; training and
    metrics always use float32"""
    base: str = "mvdiff://toy-depth-base"
    """base with depth input that stage 1 continues to train: `mvdiff://` name or folder"""
    init_adapter: str = "mvdiff://toy-depth"
    """model folder whose attention and image-condition layers training continues from; "": use the layers trained from
    scratch in this run"""
    num_frames: int = 48
    """frames per walk through a room"""
    arc_deg: float = 192.0
    """angle that a walk covers around the room, in degrees; smaller values put frames closer together"""
    num_views: int = 12
    """frames generated together; at least 3"""
    stage1_steps: int = 12
    """optimizer steps of each of the two stage-1 trainings (base on single frames); at least --num_validations"""
    sequences: int = 1
    """test rooms for which all frames are generated, key frames first and then the frames between them; 1 to
    --test_rooms"""

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
