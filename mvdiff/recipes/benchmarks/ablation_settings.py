"""What the ablations compare, and their settings; free of torch. The string under a field is its help."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from mvdiff.models.adapter_config import DEFAULT_ATTENTION, RELEASED_ATTENTION

ALL_VIEWS = "mvdiff.models.attention.AllViewAttention"


@dataclass(frozen=True)
class Variant:
    """One attention of the comparison.

    Attributes:
        name: Name for `--only` and folders.
        title: Name of its row.
        class_path: Class of the attention.
        init_args: Its settings.
    """

    name: str
    title: str
    class_path: str
    init_args: Mapping[str, Any] = field(default_factory=dict)

    @property
    def attention(self) -> dict[str, Any]:
        """Return the value of `model.adapter.attention`."""
        return {"class_path": self.class_path, "init_args": dict(self.init_args)}


BASE = "caa-k3"
"""Variant with which the others are compared."""
VARIANTS = (
    Variant(BASE, "CAA, K = 3", DEFAULT_ATTENTION, {"kernel_size": 3}),
    Variant("caa-k1", "CAA, K = 1", DEFAULT_ATTENTION, {"kernel_size": 1}),
    Variant(
        "caa-no-displacement",
        "CAA, K = 3, no displacement encoding",
        DEFAULT_ATTENTION,
        {"kernel_size": 3, "wavelengths": None},
    ),
    Variant("release-2023", "block of the 2023 release", RELEASED_ATTENTION),
    Variant("all-views", "all views", ALL_VIEWS),
    Variant("all-views-rays", "all views, rays encoded", ALL_VIEWS, {"rays": True}),
)
"""All of them have equally many parameters. The last one goes beyond the others' question: papers with attention over
all views tell it the cameras."""


SEEDS = (0, 1, 2)
"""Seeds of the trainings of each variant."""


@dataclass(frozen=True, kw_only=True)
class AblationSettings:
    """What to make, and where."""

    size: Literal["toy"] = "toy"
    """toy: the packaged toy base on rooms of the toy world"""
    out: Path = Path("ablations")
    """folder that receives data, trainings, samples, scores and tables; a rerun goes on in it"""
    only: tuple[str, ...] | None = None
    """variants to make, such as caa-k3 all-views (default: all); the tables show what else --out has"""
    seeds: tuple[int, ...] | None = None
    """seeds of the trainings of each variant (default: 0 1 2)"""
    num_workers: int = 2
    """toy rooms rendered in parallel"""

    def __post_init__(self) -> None:
        names = [variant.name for variant in VARIANTS]
        if unknown := [name for name in self.only or () if name not in names]:
            raise ArgumentTypeError(f"--only must be some of {', '.join(names)}; got {unknown[0]}")
        if wrong := [seed for seed in self.seeds or () if seed < 0]:
            raise ArgumentTypeError(f"--seeds must be 0 or more; got {wrong[0]}")
        if self.num_workers < 0:
            raise ArgumentTypeError(f"--num_workers must be at least 0; got {self.num_workers}")

    @property
    def chosen_seeds(self) -> tuple[int, ...]:
        """The seeds to train with."""
        return SEEDS if self.seeds is None else self.seeds

    @property
    def chosen(self) -> list[Variant]:
        """The variants to make, in the order of the table."""
        return [variant for variant in VARIANTS if self.only is None or variant.name in self.only]


@dataclass(frozen=True, kw_only=True)
class AblationScale:
    """Size of the experiment: equal for all variants, and for all runs in one folder.

    Attributes:
        config: Config of the trainings.
        base: Frozen base to train on.
        protocol: Protocol of the samples and scores, by id or file; its test rooms are those of `test_world`.
        max_steps: Optimizer steps.
        batch_size: Panoramas of a step, and panoramas generated at once.
        rooms: Rooms to train on.
        train_seed: Seed of the toy world to train on; another one than those of the base (1) and of the test rooms (0).
        test_world: Arguments of `write_toyworld` that make the protocol's test rooms.
    """

    trained_worlds: ClassVar[tuple[int, ...]] = (1,)
    """Seeds of the toy worlds on which the base was trained (notes/toy-models.md)."""

    config: str = "toy/ablation.yaml"
    base: str = "mvdiff://toy-base"
    protocol: str = "toy-pano-v1"
    max_steps: int = 1000
    batch_size: int = 4
    rooms: int = 400
    train_seed: int = 2
    test_world: Mapping[str, int] = field(default_factory=lambda: {"seed": 0, "rooms": 40, "test_rooms": 32})

    def __post_init__(self) -> None:
        if self.train_seed in (*self.trained_worlds, self.test_world["seed"]):
            raise ValueError(
                f"train_seed must be neither that of the base's rooms (1) nor that of the test rooms "
                f"({self.test_world['seed']}); got {self.train_seed}."
            )
