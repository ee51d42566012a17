"""Data and samples of a section, below one folder: a rerun makes what is missing.

<out>/<protocol>/data/                  the toy world
<out>/<protocol>/rig.json, prompts.json views and prompts, for `mvdiff import` of other methods' panoramas
<out>/<protocol>/samples/<method>/      sample folders
<out>/<protocol>/scores/<method>.json   results of `mvdiff evaluate`
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from mvdiff.batch import MultiViewBatch
from mvdiff.data.datamodule import Matterport3DDataModule
from mvdiff.data.keyed_datamodule import MultiViewDataModule
from mvdiff.data.scannet_datamodule import ScanNetDataModule
from mvdiff.data.toyworld import write_toyworld
from mvdiff.data.toyworld.truth import view_truth
from mvdiff.eval.protocol import Protocol, canonical_json
from mvdiff.eval.sources import DataSource
from mvdiff.files.sharing import shared_name
from mvdiff.files.writing import write_whole
from mvdiff.geometry.cameras import Rig
from mvdiff.methods import method_class
from mvdiff.methods.method import Method, write_method
from mvdiff.methods.references import GroundTruth
from mvdiff.recipes.benchmarks.settings import BenchmarkSettings
from mvdiff.recipes.benchmarks.table import MethodRow, TableSection
from mvdiff.samples import is_complete, sample_folder, write_json
from mvdiff.settings import Sampling
from mvdiff.tasks.opening import task_from

WORLD_SEED = 0
SINGLE_VIEWS = 4
"""Times as many samples at once if a method makes their views one after the other."""
Advance = Callable[[int, int], None]
"""Called with the numbers of samples that are done, and of all."""


class SectionSamples:
    """Data and samples of one section.

    Args:
        section: The section.
        settings: Settings of the table.

    Attributes:
        protocol: Protocol of the section at the size of the settings.
        folder: Folder of everything that is made for it.
    """

    def __init__(self, section: TableSection, settings: BenchmarkSettings) -> None:
        self.section, self.settings = section, settings
        self.protocol = section.protocol(settings.size)
        self.folder = settings.out / self.protocol.id
        self.task = task_from(section.task)
        own = getattr(settings, section.data_option)
        self.makes_world = own is None and settings.size == "toy"
        self.data_root = self.folder / "data" / section.layout if own is None else Path(own)

    def of(self, method: str) -> Path:
        """Return the folder of a method's samples."""
        return self.settings.imported_folders.get(method, self.folder / "samples" / method)

    def scores_of(self, method: str) -> Path:
        """Return the file of a method's results."""
        return self.folder / "scores" / f"{method}.json"

    def make_world(self) -> None:
        """Draw the protocol's toy world, unless it was drawn before."""
        arguments = {"seed": WORLD_SEED, **self.section.world}
        record, text = self.folder / "world.json", canonical_json(arguments)
        if self.data_root.is_dir() and record.is_file() and record.read_bytes() == text.encode():
            return
        write_toyworld(self.folder / "data", num_workers=self.settings.num_workers, **arguments)
        write_whole(record, text)

    @cached_property
    def reference(self) -> DataSource:
        """The real samples that the protocol names, once each, in the order of the data set."""
        source = DataSource(protocol_data(self.protocol, self.data_root), self.protocol.data.split)
        source.name = shared_name(self.data_root)
        ids = self.protocol.data.ids
        if ids is not None:
            dataset = source.dataset
            named = zip(dataset.indices, dataset.sample_ids(), strict=True)
            dataset.indices = [index for index, name in named if re.fullmatch(ids, name)]
        return source

    @property
    def rig(self) -> Rig | None:
        """Views of panoramas; None for frames."""
        images = self.protocol.images
        return None if images.rig is None else Rig(images.rig, images.height, images.width)

    def write_inputs(self) -> str | None:
        """Write what other programs need, and the true labels; return the file of labels if the protocol judges them.

        Raises:
            FileNotFoundError: The data have no true labels.
        """
        dataset, rig = self.reference.dataset, self.rig
        if rig is None:
            return None
        entries = [{"id": name, "prompt": dataset[n]["prompts"]} for n, name in enumerate(dataset.sample_ids())]
        write_json(self.folder / "prompts.json", entries)
        write_json(self.folder / "rig.json", rig.to_dict())
        if "caption_agreement" not in self.protocol.metrics:
            return None
        truth = view_truth(self.data_root, dataset.sample_ids(), rig)
        return str(write_json(self.folder / "truth.json", truth))

    def open(self, row: MethodRow) -> Method:
        """Open a method with its models, on the device.

        Raises:
            FileNotFoundError: A model is not there.
            ValueError: A model does not fit, or was not given.
        """
        if row.is_reference:
            return GroundTruth(row.method, self.task)
        method = method_class(row.method, self.task.name).open(row.to_open(self.settings), self.task)
        for pipeline in method.pipelines:
            pipeline.set_progress_bar_config(disable=True)
            pipeline.to(self.settings.device)
        return method

    def make(self, row: MethodRow, method: Method, advance: Advance) -> None:
        """Write the samples of a method that are not complete, under the protocol's sampling.

        Samples are generated in the same batches in every run, since the number of samples in a batch changes pixels by
        rounding: a batch that an earlier run left unfinished is generated again as a whole.

        Raises:
            ValueError: A complete sample was made with other settings.
            OSError: A folder cannot be written.
        """
        dataset, rule = self.reference.dataset, self.protocol.sampling
        names = dataset.sample_ids()
        size = self.settings.batch_size * (SINGLE_VIEWS if method.makes_single_views else 1)
        sampling = Sampling(
            num_inference_steps=rule.num_inference_steps,
            guidance_scale=rule.guidance_scale,
            eta=rule.eta,
            negative_prompt=rule.negative_prompt or None,
        )
        how: dict[str, Any] = {"seed": rule.seed, "rig": self.rig}
        for start in range(0, len(names), size):
            places = range(start, min(start + size, len(names)))
            complete = [is_complete(sample_folder(self.of(row.method), names[place])) for place in places]
            again = self.settings.overwrite or (any(complete) and not all(complete))
            batch = MultiViewBatch.collate([dataset[place] for place in places])
            write_method(method, [batch], self.of(row.method), sampling, overwrite=again, **how)
            advance(places.stop, len(names))


def protocol_data(protocol: Protocol, root: Path) -> MultiViewDataModule:
    """Return the data module of a protocol's task, with the protocol's views.

    Args:
        protocol: The protocol.
        root: Folder of the data set.
    """
    images = protocol.images
    if protocol.task == "depth":
        how = {"mode": "keyframes", "num_views": images.num_views}
        return ScanNetDataModule(str(root), images.height, images.width, **how)
    return Matterport3DDataModule(str(root), Rig(images.rig, images.height, images.width))
