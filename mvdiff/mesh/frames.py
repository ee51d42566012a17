"""Frames to fuse, from a sample folder or a recording."""

from pathlib import Path

from torch import Tensor

from mvdiff.data.layouts import Source, looked_for, open_recording, recording_class
from mvdiff.data.recorded_frames import SceneFrames
from mvdiff.geometry.consistency import Frame
from mvdiff.samples import Sample, is_complete, read_sample
from mvdiff.samples.depths import read_depth
from mvdiff.samples.folders import DEPTH_NAME
from mvdiff.samples.pixels import read_png


class SampleFrames:
    """The frames of a sample with depth, read on demand.

    Raises:
        ValueError: The sample has no depth images or no camera centres.
    """

    def __init__(self, sample: Sample):
        self.sample = sample
        self.K, self.R, self.height, self.width = sample.record.camera_tensors()
        t = sample.record.translations()
        if t is None or not (sample.folder / DEPTH_NAME).is_dir():
            raise ValueError(
                f"{sample.folder} must have {DEPTH_NAME}/<i>.png and a camera centre for each view. Use a sample of "
                "`mvdiff generate depth`, or a scene."
            )
        self.t = t

    def __len__(self) -> int:
        return self.sample.num_views

    def poses(self) -> tuple[Tensor, Tensor]:
        """Return R [V, 3, 3] world-from-camera and t [V, 3] camera centres in the world, metres."""
        return self.R, self.t

    def __getitem__(self, index: int) -> Frame:
        path = self.sample.view_paths[index]
        image = read_png(path).permute(1, 2, 0)
        depth = read_depth(path.parent / DEPTH_NAME / path.name)
        if not tuple(image.shape[:2]) == tuple(depth.shape) == (self.height, self.width):
            raise ValueError(
                f"a view and its depth must have the size of its camera, {self.width}x{self.height}; got "
                f"{image.shape[1]}x{image.shape[0]} and {depth.shape[1]}x{depth.shape[0]}, in {path}."
            )
        return Frame(image, depth, self.K[index], self.R[index], self.t[index], str(path))


def open_frames(folder: str | Path, source: Source | None = None) -> SceneFrames | SampleFrames:
    """Open the frames of a sample folder or a recording.

    Args:
        folder: Folder with `sample.json`, or a scene.
        source: Class or class path that reads the scene; None: the layout is detected.

    Raises:
        FileNotFoundError: The folder is neither a sample nor a scene.
        ValueError: No frame has a depth and a pose.
    """
    folder = Path(folder)
    if source is None and is_complete(folder):
        return SampleFrames(read_sample(folder))
    if recording_class(folder, source):
        return SceneFrames(open_recording(folder, source, on_broken="skip"))
    raise FileNotFoundError(
        f"SOURCE must be a sample folder (with sample.json) or a scene (with {looked_for(source)}); got {folder}."
    )
