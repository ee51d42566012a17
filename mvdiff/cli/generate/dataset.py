"""`mvdiff generate dataset`: the samples of a data set, for a model of any task."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from mvdiff.cli.command import Command, done, tally, typed
from mvdiff.cli.generate.options import OutputOptions, check_places, write_pictures
from mvdiff.cli.opening import MemoryOptions, MethodOptions, open_method
from mvdiff.cli.out_files import make_folder
from mvdiff.files.paths import ignores_case
from mvdiff.settings import PanoramaPictures, Sampling


@dataclass(frozen=True, kw_only=True)
class SplitOptions:
    """Data set and its samples."""

    config: list[str]
    """YAML file of the run, or a packaged one (listed in mvdiff fit --help); repeat to combine files: later ones
    override earlier ones"""
    split: Literal["train", "val", "test"] = "test"
    """split of the data"""
    max_samples: int | None = None
    """stop after this many samples (default: all)"""
    no_paste_back: bool = False
    """do not copy known pixels back into the generated views; mvdiff evaluate --metrics given needs this to report
    known_psnr"""
    reference: Path | None = None
    """write the real views into this folder, for mvdiff evaluate --reference (default: not written)"""

    def __post_init__(self) -> None:
        if self.max_samples is not None and self.max_samples < 1:
            raise ValueError(f"--max_samples must be at least 1; got {self.max_samples}.")


def run(
    options: SplitOptions,
    output: OutputOptions,
    pictures: PanoramaPictures,
    sampling: Sampling,
    model: MethodOptions,
    memory: MemoryOptions,
) -> int:
    """Generate; return the exit status."""
    check_places(output.out, model, options.reference)
    make_folder(output.out)

    from mvdiff.cli.config_files import open_data
    from mvdiff.cli.progress import progress_bar
    from mvdiff.methods.method import write_method
    from mvdiff.pipelines.sample_folders import write_reference
    from mvdiff.samples.ids import check_ids

    data = open_data(options.config, options.split).data
    dataset = data.eval_dataset(options.split)
    if hasattr(dataset, "sample_ids"):  # a data set of one's own may lack it; its ids are checked batch by batch
        ids = [(one, f"the {options.split} split, item {index}") for index, one in enumerate(dataset.sample_ids())]
        check_ids(ids, partial(ignores_case, output.out))
    batches = data.eval_dataloader(options.split)
    method = open_method(model, memory, None if model.model else _task_of(data), output.no_caa)
    for pipeline in method.pipelines:
        pipeline.set_progress_bar_config(disable=True)
    of_rig = method.task is None or "rig" in method.task.view_fields
    rig = getattr(data, "rig", None) if of_rig else None
    if pictures != PanoramaPictures() and rig is None:
        raise ValueError(f"--format, --crop and --cube_faces need panoramas; got the frames of {options.config[-1]}.")
    how = {"seed": output.seed, "overwrite": output.overwrite, "rig": rig, "paste_back": not options.no_paste_back}
    written = skipped = 0
    with progress_bar() as bar:
        task = bar.add_task(str(output.out), total=options.max_samples)
        for batch in batches:
            left = None if options.max_samples is None else options.max_samples - written - skipped
            if left == 0:
                break
            batch = batch if left is None else batch.rows(range(min(left, batch.batch_size)))
            counts = write_method(method, [batch], output.out, sampling, **how)
            write_pictures(output.out, batch.sample_id, pictures)
            if options.reference is not None:
                write_reference(batch, options.reference, rig=rig, overwrite=output.overwrite)
            written, skipped = written + counts.written, skipped + counts.skipped
            bar.advance(task, batch.batch_size)
    if not written + skipped:
        raise ValueError(f"--split {options.split} must have samples; got none in {', '.join(options.config)}.")
    truth = () if options.reference is None else ("--reference", options.reference)
    done(
        f"{output.out}: {tally(written, skipped, 'sample')}",
        typed("mvdiff", "evaluate", "--generated", output.out, *truth, "--out", "results.json"),
    )
    return 0


def _task_of(data):
    """Return the task that a data module's samples are for."""
    from mvdiff.tasks.opening import task_from

    if not hasattr(data, "rig"):
        return task_from("depth")
    return task_from("panorama" if getattr(data, "known", None) is None else "outpaint")


COMMAND = Command(
    name="generate dataset",
    summary="the samples of a data set, for a model of any task",
    description="Generate the samples of one split of the data set that a run's YAML file names. Writes a folder per "
    "sample into --out, and the real views into --reference. A rerun skips complete samples.",
    example="mvdiff generate dataset --model runs/pano/version_0/model --config pano.yaml --out out --reference truth",
    settings=(SplitOptions, OutputOptions, PanoramaPictures, Sampling, MethodOptions, MemoryOptions),
    run=run,
)
