"""The trainings of the ablations with their samples and scores: a rerun makes what is missing.

<out>/scale.json                       size of the experiment, which a rerun must have, too
<out>/data/train/, <out>/data/test/    toy worlds
<out>/runs/<name>/made_by.json         commits and machines that worked at the run (`ablation_makers`)
<out>/runs/<name>/train/               the training: model/ and cost.json, once it is finished
<out>/runs/<name>/samples/             panoramas of the test rooms
<out>/runs/<name>/scores.json          results under the protocol
<out>/features/                        features of networks

Everything is written whole. Each run is locked while a process works at it, so that several processes may share <out>.
"""

from __future__ import annotations

import json
import shutil
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mvdiff.batch import MultiViewBatch
from mvdiff.data.datamodule import Matterport3DDataModule
from mvdiff.data.toyworld import write_toyworld
from mvdiff.data.toyworld.truth import read_truth
from mvdiff.eval.feature_cache import FeatureCache
from mvdiff.eval.protocol_files import read_protocol
from mvdiff.eval.results_file import write_results
from mvdiff.eval.runner import evaluate
from mvdiff.eval.settings import EvaluationSettings
from mvdiff.eval.sources import DataSource, FolderSource
from mvdiff.files.locks import locked
from mvdiff.files.sharing import shared_name
from mvdiff.files.text import read_json_object
from mvdiff.geometry.cameras import Rig
from mvdiff.methods import method_class
from mvdiff.methods.method import Method, write_method
from mvdiff.methods.parts import Parts
from mvdiff.methods.references import GroundTruth
from mvdiff.pipelines.model_folder import INFO_NAME
from mvdiff.recipes.benchmarks.ablation_settings import AblationScale, Variant
from mvdiff.recipes.fit_command import RunTrainer
from mvdiff.samples import is_complete, sample_folder, write_json
from mvdiff.settings import Sampling
from mvdiff.tasks.opening import task_from

TRUTH, ALONE = "ground-truth", "base-alone"
"""Names of the runs that train nothing: the real views, and the base without attention across views."""
SCORES = "scores.json"
_LAYOUT = "mp3d_skybox"
_TASK = "panorama"


@dataclass(frozen=True)
class AblationRun:
    """One row's samples: a training with a seed, or a reference.

    Attributes:
        folder: Folder of everything that is made for it.
        variant: Attention to train; None: nothing is trained.
        seed: Seed of the training.
    """

    folder: Path
    variant: Variant | None = None
    seed: int = 0

    @property
    def train(self) -> Path:
        """Folder of the training."""
        return self.folder / "train"

    @property
    def model(self) -> Path:
        """Model folder, which is there once the training is finished."""
        return self.train / "model"

    @property
    def samples(self) -> Path:
        """Folder of the samples."""
        return self.folder / "samples"

    @property
    def is_trained(self) -> bool:
        """True if there is nothing left to train."""
        return self.variant is None or (self.model / INFO_NAME).is_file()

    @property
    def is_finished(self) -> bool:
        """True if the scores are there, which come last."""
        return (self.folder / SCORES).is_file()

    def claimed(self, wait: bool = False) -> AbstractContextManager[bool]:
        """Hold the run against other processes; gives False if another one has it."""
        return locked(self.folder.parent / f".{self.folder.name}.lock", wait)


class AblationRuns:
    """Data, trainings, samples and scores below one folder.

    Args:
        out: The folder.
        scale: Size of the experiment.
        run_trainer: Runs `mvdiff fit` with the given arguments.

    Raises:
        ValueError: The folder holds an experiment of another size.
    """

    def __init__(self, out: Path, scale: AblationScale, run_trainer: RunTrainer) -> None:
        self.out, self.scale, self.run_trainer = out, scale, run_trainer
        self.protocol = read_protocol(scale.protocol)
        images = self.protocol.images
        self.rig = Rig(images.rig, images.height, images.width)
        self.cache = FeatureCache(out / "features")
        self.train_root, self.test_root = (out / "data" / split / _LAYOUT for split in ("train", "test"))

    def prepare(self, num_workers: int) -> None:
        """Draw the worlds that are missing, and note the size of the experiment."""
        with locked(self.out / ".data.lock", wait=True):
            self._check_scale()
            write_json(self.out / "scale.json", self._told_scale())
            worlds = {
                self.train_root: {"seed": self.scale.train_seed, "rooms": self.scale.rooms + 1, "test_rooms": 1},
                self.test_root: dict(self.scale.test_world),
            }
            for root, world in worlds.items():
                if not root.is_dir():  # a world appears as a whole
                    write_toyworld(root.parent, num_frames=0, num_workers=num_workers, **world)
            truth = {name: read_truth(self.test_root, name) for name in self.reference.dataset.sample_ids()}
            views = {name: [labels[int(yaw)] for yaw in self.rig.yaw_deg] for name, labels in truth.items()}
            write_json(self.out / "truth.json", views)

    def run_of(self, variant: Variant, seed: int) -> AblationRun:
        """Return the run of a variant with a seed."""
        return AblationRun(self.out / "runs" / f"{variant.name}-{seed}", variant, seed)

    @property
    def references(self) -> tuple[AblationRun, AblationRun]:
        """The runs of the ground truth and of the base alone."""
        return AblationRun(self.out / "runs" / TRUTH), AblationRun(self.out / "runs" / ALONE)

    @cached_property
    def reference(self) -> DataSource:
        """The real views of the test rooms."""
        source = DataSource(Matterport3DDataModule(str(self.test_root), self.rig), self.protocol.data.split)
        source.name = shared_name(self.test_root)
        return source

    def make(self, run: AblationRun) -> None:
        """Train, generate and score what is missing of a run.

        Raises:
            ValueError: Samples or a checkpoint are those of other settings.
            OSError: The training failed, or a file cannot be written.
        """
        if run.is_finished:
            return
        if not run.is_trained:
            self._train(run)
        self._generate(run)
        self._score(run)

    def _train(self, run: AblationRun) -> None:
        """Train from the last checkpoint of an earlier start, or else from the beginning."""
        checkpoints = run.train / "checkpoints"
        resumes = any(checkpoints.glob("*.ckpt"))
        if not resumes and run.train.exists():
            shutil.rmtree(run.train)
        self.run_trainer(self.fit_arguments(run, resumes))
        if not run.is_trained:
            raise OSError(f"{run.train} must hold a finished training; it was interrupted. Run the command again.")
        shutil.rmtree(checkpoints, ignore_errors=True)  # several times as large as the model

    def fit_arguments(self, run: AblationRun, resumes: bool) -> list[str]:
        """Return the arguments of `mvdiff` for a training."""
        scale = self.scale
        chosen = {
            "seed_everything": run.seed,
            "total_batch_size": scale.batch_size,
            "trainer.max_steps": scale.max_steps,
            "trainer.default_root_dir": run.train,
            "trainer.enable_model_summary": "false",
            "trainer.logger": "lightning.pytorch.loggers.CSVLogger",
            "trainer.logger.save_dir": run.train,
            "trainer.logger.name": "",
            "trainer.logger.version": "",
            "model.base": scale.base,
            "model.seed": run.seed,
            "model.adapter.attention": json.dumps(run.variant.attention),
            "data.root": self.train_root,
            "data.batch_size": scale.batch_size,
            "data.seed": run.seed,
            **({"ckpt_path": "last"} if resumes else {}),
        }
        return ["fit", "--config", scale.config, *(f"--{key}={value}" for key, value in chosen.items())]

    def _generate(self, run: AblationRun) -> None:
        """Write the samples that are missing, in the same batches in every run: a batch is made as a whole.

        The number of samples in a batch changes pixels by rounding.
        """
        method, dataset, rule = self._method(run), self.reference.dataset, self.protocol.sampling
        sampling = Sampling(num_inference_steps=rule.num_inference_steps, guidance_scale=rule.guidance_scale)
        names, size = dataset.sample_ids(), self.scale.batch_size
        for start in range(0, len(names), size):
            places = range(start, min(start + size, len(names)))
            complete = [is_complete(sample_folder(run.samples, names[place])) for place in places]
            batch = MultiViewBatch.collate([dataset[place] for place in places])
            again = any(complete) and not all(complete)
            write_method(method, [batch], run.samples, sampling, seed=rule.seed, rig=self.rig, overwrite=again)

    def _method(self, run: AblationRun) -> Method:
        """Open what makes the samples of a run."""
        if run.folder.name == TRUTH:
            return GroundTruth(TRUTH)
        parts = Parts(base=self.scale.base) if run.variant is None else Parts(model=run.model)
        name = "independent" if run.variant is None else "mvdiffusion"
        method = method_class(name, _TASK).open(parts, task_from(_TASK))
        for pipeline in method.pipelines:
            pipeline.set_progress_bar_config(disable=True)
        return method

    def _score(self, run: AblationRun) -> None:
        """Score the samples under the protocol."""
        how = EvaluationSettings(device="cpu", truth=str(self.out / "truth.json"))
        samples, metrics = FolderSource(run.samples), self.protocol.metrics
        results = evaluate(samples, self.reference, metrics, how, protocol=self.protocol, cache=self.cache)
        write_results(results, run.folder / SCORES)

    def _told_scale(self) -> dict[str, Any]:
        names = {name: shared_name(getattr(self.scale, name)) for name in ("base", "config")}
        return asdict(self.scale) | names | {"protocol": self.protocol.hash()}

    def _check_scale(self) -> None:
        path = self.out / "scale.json"
        before, now = read_json_object(path) if path.is_file() else {}, self._told_scale()
        for name in before.keys() & now.keys():
            if before[name] != now[name]:
                raise ValueError(
                    f"{name} must be that of the experiment in --out, {before[name]!r}; got {now[name]!r}. Choose "
                    "another --out."
                )
