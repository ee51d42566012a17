"""Small sample folders to look at: panoramas of a smooth world, and frames with depth and pose."""

from pathlib import Path

import numpy as np
import torch

from mvdiff.geometry.cameras import Rig, RingAndPolesRig, RingRig
from mvdiff.samples import SampleRecord, camera_record, sample_folder, write_sample
from tests.eval.worlds import views

RING = RingRig(num_views=8, height=16, width=16)
POLES = RingAndPolesRig(num_views=4, height=16, width=16)


def write_panorama(
    root: Path, sample_id: str, seed: int | None = 0, rig: Rig = RING, panorama=None, prompt: str = "a room", **settings
) -> Path:
    record = SampleRecord(sample_id, [prompt] * rig.num_views, rig.to_dict(), seed=seed, settings=settings)
    return write_sample(sample_folder(root, sample_id), record, views(len(sample_id), rig), panorama)


def write_recording(root: Path, sample_id: str, num_frames: int = 5, size=(6, 8), depths: bool = True) -> Path:
    """Frames told apart by their red, in a world with y down, each a step further right."""
    height, width = size
    K = torch.tensor([[8.0, 0, 3.5], [0, 8.0, 2.5], [0, 0, 1]]).expand(num_frames, 3, 3)
    t = torch.stack([torch.arange(num_frames) * 0.1, torch.zeros(num_frames), torch.zeros(num_frames)], -1)
    cameras = camera_record(K, torch.eye(3).expand(num_frames, 3, 3), t, height, width)
    images = np.zeros((num_frames, height, width, 3), np.uint8)
    images[..., 0] = np.arange(num_frames)[:, None, None] * 20
    settings = {"frames": [10 * i for i in range(num_frames)], "key_frames": [0]}
    prompts = [f"frame {i}" for i in range(num_frames)]
    record = SampleRecord(sample_id, prompts, None, cameras, seed=0, settings=settings)
    maps = np.full((num_frames, height, width), 2.0) if depths else None
    return write_sample(sample_folder(root, sample_id), record, images, depths=maps)
