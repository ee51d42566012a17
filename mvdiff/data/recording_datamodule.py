"""LightningDataModule of recordings of any layout: batches of frames with depth, pose and prompts."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from mvdiff.data.agreement import NOT_REGISTERED, registration_problem
from mvdiff.data.frames import FrameDataset, Mode, TrainSamples
from mvdiff.data.keyed_datamodule import MultiViewDataModule, Split, naming_missing_root
from mvdiff.data.layouts import Source, named_scenes, open_recording
from mvdiff.data.recordings import MissingCaption, OnBroken, RecordingSource
from mvdiff.data.resizing import Resizing, check_resizing
from mvdiff.data.scene_checks import wrong_scenes
from mvdiff.data.sequences import MAX_BETWEEN
from mvdiff.data.shards.reading import holds_shards
from mvdiff.data.shards.recordings import shard_scenes
from mvdiff.files.paths import folder_or_url
from mvdiff.settings import ShardSettings, settings_from

PLAIN_READING = ShardSettings()
_log = logging.getLogger(__name__)


class RecordingDataModule(MultiViewDataModule):
    """Frames of recordings ("scenes") as batches with `depths`, `t` and `known`.

    Args:
        root: Folder with train/ and test/ (or with train.txt and test.txt from `mvdiff data split`), or a folder that
            contains it under its usual name, such as scannet; or a folder or address (s3://bucket/data) of shards
            (`mvdiff data shard`), which give the samples of the data set that they were made of.
        height: Height of the frames in pixels, a multiple of the autoencoder's stride, 8 for Stable Diffusion (paper:
            192).
        width: Width of the frames in pixels, likewise (paper: 256).
        mode: Kind of a sample: "keyframes" (consecutive key frames), "interpolation" (two known key frames and up to
            `max_between` frames between), "mixed" (both, 1:1), "interval" (every `interval`-th usable frame), "frames"
            (single frames), "full" (all key frames of a scene and every usable frame between; as `eval_mode` only).
        eval_mode: Kind of a sample in validation and test; None: `mode`.
        num_views: Frames per sample in modes "keyframes", "interval" and "mixed" (its key-frame samples); null: a whole
            scene (scenes with more than 150 such frames are skipped).
        interval: Use every `interval`-th usable frame: in mode "interval", and in mode "frames" for validation and test
            or with `train_samples` "windows".
        max_between: Largest number of frames between the two key frames of "interpolation".
        full_interval: With "full", use only every N-th frame between two key frames, counted by frame number from the
            earlier one (2023 release: 20); None: all of them.
        min_frames: Scenes with fewer key frames (or frames at the interval) are skipped, and their number is logged;
            None: 10, or `num_views` if less.
        train_samples: Training samples per epoch. "every_frame": one per key frame ("interval": per frame at the
            interval; "frames": per usable frame), as in the 2023 release. "windows": one per window of `num_views`
            frames, as in evaluation ("mixed": two; "frames": one per `interval` usable frames). "interpolation" always
            takes one per pair of key frames.
        draw_between: In training, draw the frames between two key frames at random in each epoch; false: take evenly
            spaced ones, as evaluation always does.
        resizing: Pixel convention for resizing depths and intrinsics: "exact" (pixel centres), or "released" (as in the
            2023 release, for models converted from it; see docs/checkpoints.md).
        max_val_samples: Use only the first `max_val_samples` validation samples; None: all.
        on_broken: Scenes without intrinsics, depth or key frames, and listed frames without files: "error" stops,
            "skip" skips and logs them.
        missing_caption: What to use for a frame without a caption: "error" stops, "nearest" takes that of the nearest
            frame that has one, "empty" the empty prompt; the number is logged.
        check_agreement: Before training, compare frames of up to 8 scenes: a scene whose depths, poses and colours
            disagree is an error, or left out with `on_broken="skip"`.
        source: Class that reads a scene: class path of a `RecordingSource`, or `class_path` and `init_args`; None:
            detected from the files.
        shards: Reading of shards.
        **settings: Settings of every data module, see `MultiViewDataModule`.

    Raises:
        ValueError: A setting is out of range. Data errors come from `setup`.
    """

    source_class: type[RecordingSource] | None = None
    """Reader of the scenes where `source` is not set; None: the layout that a scene has."""

    def __init__(
        self,
        root: str | Path,
        height: int = 192,
        width: int = 256,
        mode: Mode = "keyframes",
        eval_mode: Mode | None = None,
        num_views: int | None = 12,
        interval: int = 20,
        max_between: int = MAX_BETWEEN,
        min_frames: int | None = None,
        *,
        train_samples: TrainSamples = "every_frame",
        draw_between: bool = True,
        full_interval: int | None = None,
        resizing: Resizing = "exact",
        max_val_samples: int | None = None,
        on_broken: OnBroken = "error",
        missing_caption: MissingCaption = "error",
        check_agreement: bool = True,
        source: str | dict[str, Any] | None = None,
        shards: ShardSettings = PLAIN_READING,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.root = folder_or_url(root)
        self.shards = settings_from(ShardSettings, shards)
        self.height = height
        self.width = width
        self.mode = mode
        self.eval_mode = eval_mode or mode
        self.max_val_samples = max_val_samples
        self.on_broken = on_broken
        self.missing_caption = missing_caption
        self.check_agreement = check_agreement
        check_resizing(resizing)
        self.resizing = resizing
        self.source = Source.of(source or self.source_class)
        self._frames = partial(
            FrameDataset,
            height=height,
            width=width,
            num_views=num_views,
            interval=interval,
            max_between=max_between,
            full_interval=full_interval,
            min_frames=min_frames,
            train_samples=train_samples,
            draw_between=draw_between,
            seed=self.seed,
        )
        for name in (mode, self.eval_mode):
            self._frames((), name)  # raises where a setting is out of range
        self._scenes: dict[str, list[RecordingSource]] = {}
        self._left_out: set[Path] = set()  # training scenes that disagree
        self._datasets: dict[tuple[Split, bool], FrameDataset] = {}

    def setup(self, stage: str) -> None:
        """Open the splits that a stage needs; before training, compare frames of a few scenes.

        Raises:
            ValueError: Depths, poses and colours of a scene disagree.
        """
        if stage == "fit" and self.check_agreement:
            self._check_agreement(self.scenes("train"))
        super().setup(stage)

    def _check_agreement(self, scenes: list[RecordingSource]) -> None:
        """Raise for scenes that disagree, or note that they are left out with `on_broken="skip"`.

        The list of scenes stays whole, so that every command holds out the same scenes for validation.
        """
        wrong, failure = [], None
        if self.trainer is None or self.trainer.is_global_zero:
            try:
                wrong = wrong_scenes(scenes, key_frames=self._reads_key_frames)
            except Exception as error:  # of any reader; the other processes wait and must stop, too
                if self.trainer is None:
                    raise
                failure = f"{type(error).__name__}: {error}"
                _log.exception("depths and poses could not be compared")
        if self.trainer is not None:
            wrong, failure = self.trainer.strategy.broadcast((wrong, failure), src=0)
        if failure:
            raise ValueError(f"scenes must be readable to compare their depths and poses; got {failure}")
        if not wrong:
            return
        first = f"{scenes[wrong[0].index].path}: {wrong[0].problem}"
        advice = "Run `mvdiff data check` on the data set, or set check_agreement to false."
        if self.on_broken == "error":
            raise ValueError(f"{first}. {advice}")
        _log.warning("%d scenes are left out, the first: %s. %s", len(wrong), first, advice)
        self._left_out = {scenes[found.index].path for found in wrong}
        self._datasets.clear()
        num_train = len(scenes) - self.num_held_out(len(scenes), "scenes")
        if all(scene.path in self._left_out for scene in scenes[:num_train]):
            raise ValueError(f"no scene is left to train on: {first}. {advice}")

    @property
    def _reads_key_frames(self) -> bool:
        return bool({self.mode, self.eval_mode} - {"interval", "frames"})

    def scenes(self, split: str) -> list[RecordingSource]:
        """Return the scenes of a folder ("train", "test"), opened at the first call.

        Raises:
            FileNotFoundError: There is no such folder, or with `on_broken="error"` a scene is not whole.
            ValueError: Intrinsics are malformed, or no scene is left.
        """
        if split not in self._scenes:
            with naming_missing_root(self.root):
                openers = self._openers(split)
            with ThreadPoolExecutor(8) as pool:  # a scene without valid_frames.npy has a file to read for each frame
                opened = list(pool.map(self._opened, openers))
            found = [scene for scene in opened if isinstance(scene, RecordingSource)]
            broken = [error for error in opened if isinstance(error, Exception)]
            where = f"{self.root}, split {split}"
            if broken and self.on_broken == "error":
                raise broken[0]
            if broken:
                _log.warning(
                    "%s: %d of %d scenes are left out, the first: %s", where, len(broken), len(openers), broken[0]
                )
            if not found:
                raise ValueError(
                    f"{where}, must hold at least one whole scene; got none of {len(openers)}: {broken[0]}"
                )
            self._scenes[split] = found
        return self._scenes[split]

    def _openers(self, split: str) -> list[Callable[[], RecordingSource]]:
        """Return a function for each scene of a split, which opens it."""
        if holds_shards(self.root):
            scenes = shard_scenes(self.root, split, self.shards, self.missing_caption)
            return [partial(_as_it_is, scene) for scene in scenes]
        how = {"on_broken": self.on_broken, "missing_caption": self.missing_caption}
        return [
            partial(_open_named, name, path, self.source, **how)
            for name, path in named_scenes(self.root, split, self.source).items()
        ]

    def _opened(self, opener: Callable[[], RecordingSource]) -> RecordingSource | FileNotFoundError | ValueError:
        """Open a scene and read the lists that the modes need, or return the error."""
        try:
            scene = opener()
            scene.resizing = self.resizing
            scene.intrinsics(self.height, self.width)
            if self.check_agreement and (aspects := registration_problem(scene)):
                raise ValueError(
                    f"{scene.path}: {NOT_REGISTERED} ({aspects}). check_agreement: false trains on it anyway."
                )
            lists = [scene.key_frames] if self._reads_key_frames else []
            lists += [scene.valid_frames] if {self.mode, self.eval_mode} != {"keyframes"} else []
        except (FileNotFoundError, ValueError) as error:
            return error
        return scene if all(lists) else ValueError(f"{scene.path} must have usable frames; got {dict(scene.unusable)}.")

    def train_dataset(self) -> FrameDataset:
        """Return the training samples."""
        return self._dataset("train", training=True)

    def eval_dataset(self, split: Split) -> FrameDataset:
        """Return the samples of a split in `eval_mode`; "train" gives those of the training scenes.

        Raises:
            ValueError: There is no such split, or it gives no sample.
        """
        return self._dataset(split, training=False)

    def _dataset(self, split: Split, training: bool) -> FrameDataset:
        if (split, training) not in self._datasets:
            in_test = self.in_test(split)
            scenes = self.scenes("test" if in_test else "train")
            if in_test:
                scenes = scenes[: self.num_val] if split == "val" else scenes
            else:
                first_val = len(scenes) - self.num_held_out(len(scenes), "scenes")
                scenes = scenes[first_val:] if split == "val" else scenes[:first_val]
                scenes = [scene for scene in scenes if scene.path not in self._left_out]
            mode = self.mode if training else self.eval_mode
            dataset = self._frames(scenes, mode, training=training)
            most = {"train": self.max_samples, "val": self.max_val_samples, "test": self.max_test_samples}[split]
            dataset.indices = dataset.indices[:most]
            self._report(split, dataset)
            self._datasets[split, training] = dataset
        return self._datasets[split, training]

    def _report(self, split: str, dataset: FrameDataset) -> None:
        """Log the scenes and frames left out; raise if no sample is left."""
        unusable = sum((scene.unusable for scene in dataset.scenes), Counter())
        left_out = "; ".join(f"{count} scenes with {reason}" for reason, count in dataset.left_out.items())
        frames = ", ".join(f"{count} x {reason}" for reason, count in unusable.items())
        if not len(dataset):
            raise ValueError(
                f"{split} must give at least one sample of mode {dataset.mode!r}; got none of {len(dataset.scenes)} "
                f"scenes, in {self.root} ({left_out}). Lower min_frames, or run `mvdiff data keyframes`."
            )
        _log.info("%s: %d samples of mode %r, %d scenes", split, len(dataset), dataset.mode, len(dataset.scenes))
        if left_out:
            _log.warning("%s: left out: %s", split, left_out)
        if unusable:
            _log.warning("%s: frames left out: %s", split, frames)
        if count := dataset.missing_captions:
            _log.warning("%s: %d frames without caption; missing_caption is %r", split, count, self.missing_caption)


def _open_named(name: str, path: Path, source: Source | None, **how: Any) -> RecordingSource:
    """Open a scene, named as the data set names it."""
    scene = open_recording(path, source, **how)
    scene.name = name
    return scene


def _as_it_is(scene: RecordingSource) -> RecordingSource:
    return scene
