"""A recording: rgb/<i>.png, depth/<i>.png in 0.2 mm, camera.txt (fx fy cx cy), poses.npy (camera-to-world, OpenGL)."""

import numpy as np
import torch

from mvdiff.data.recordings import RecordingSource


class MyRecording(RecordingSource):
    """Frames are numbered from 0 in the order of time."""

    layout = "my"
    parts = ("poses.npy", "camera.txt", "rgb", "depth")
    depth_units_per_metre = 5000.0

    @property
    def frames(self):
        return sorted(int(path.stem) for path in (self.path / "rgb").glob("*.png"))

    def file(self, kind, frame):
        images = {"color": f"rgb/{frame}.png", "depth": f"depth/{frame}.png"}
        return self.path / {**images, "pose": "poses.npy", "intrinsics": "camera.txt"}[kind]

    def load_intrinsics(self, frame):
        fx, fy, cx, cy = np.loadtxt(self.file("intrinsics", frame))
        return torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64)

    def load_pose(self, frame):
        pose = np.load(self.file("pose", frame))[frame]
        return pose @ np.diag([1.0, -1.0, -1.0, 1.0])  # OpenGL's y and z point the other way
