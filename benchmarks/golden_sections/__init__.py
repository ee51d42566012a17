"""The sections of `golden.py`, each a part of a tree that is run and whose tensors and numbers are kept."""

from collections.abc import Callable
from dataclasses import dataclass

from .pipelines import depth, outpaint, panorama
from .run import Run
from .samples import evaluate, generate, mesh, quickstart, two_stages, world
from .training import test, train
from .upstream import convert


@dataclass(frozen=True)
class Section:
    """A part of the comparison, the sections whose files it reads, and whether it has to be asked for."""

    run: Callable[[Run], None]
    needs: tuple[str, ...] = ()
    slow: bool = False


TASKS = ("panorama", "outpaint", "depth")
SECTIONS = {
    "world": Section(world),
    "panorama": Section(panorama),
    "outpaint": Section(outpaint),
    "depth": Section(depth, ("world",)),
    "generate": Section(generate),
    "two stages": Section(two_stages, ("world",)),
    **{f"test {task}": Section(test, ("world",)) for task in TASKS},
    **{f"train {task}": Section(train, ("world",)) for task in TASKS},
    **{f"train {base} base": Section(train, ("world",)) for base in ("depth", "inpainting", "sphere")},
    "train equirectangular": Section(train),
    "convert": Section(convert, ("world",)),
    "evaluate": Section(evaluate, ("world", "two stages", *(f"test {task}" for task in TASKS))),
    "mesh": Section(mesh, ("world", "two stages")),
    **{f"quickstart {task}": Section(quickstart, slow=True) for task in TASKS},
}
