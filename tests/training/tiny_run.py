"""A complete tiny run on disk: base, panoramas and YAML, for the tests of training and the command line."""

import json
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from tests.tiny import tiny_base

NUM_TRAIN, NUM_TEST = 8, 2


def tiny_panoramas(root: Path) -> Path:
    """Write ten small equirectangular images with prompts and a split."""
    root.mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = [f"room{i}" for i in range(NUM_TRAIN + NUM_TEST)]
    for i, name in enumerate(names):
        Image.fromarray(rng.integers(0, 256, (32, 64, 3), dtype=np.uint8)).save(root / f"{name}.png")
        prompts = {"0": f"a red lamp {i}", "180": "a blue table"}
        (root / f"{name}.json").write_text(json.dumps({"prompts": prompts}))
    (root / "train.txt").write_text("\n".join(names[:NUM_TRAIN]) + "\n")
    (root / "test.txt").write_text("\n".join(names[NUM_TRAIN:]) + "\n")
    return root


def tiny_config(folder: Path, **model) -> dict:
    """Write base and data below `folder` and return a run's config: 3 views of 16x16, 6 training samples."""
    if not (folder / "base").exists():
        tiny_base(folder / "base")
        tiny_panoramas(folder / "data")
    return {
        "trainer": {
            "accelerator": "cpu",
            "max_epochs": 2,
            "num_sanity_val_steps": 1,
            "enable_model_summary": False,
            "log_every_n_steps": 1,
            "callbacks": [{"class_path": "mvdiff.training.callbacks.SaveModelFolder"}],
        },
        "model": {
            "class_path": "mvdiff.training.multi_view.MultiViewModule",
            "init_args": {
                "base": str(folder / "base"),
                "adapter": {"attention": {"init_args": {"head_dim": 8}}},
                "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-2}},
                "text_dropout": 0.5,
                "sampling": {"num_inference_steps": 2},
                "num_validation_samples": 1,
                **model,
            },
        },
        "data": {
            "class_path": "mvdiff.data.datamodule.EquirectangularDataModule",
            "init_args": {
                "root": str(folder / "data"),
                "rig": {
                    "class_path": "mvdiff.geometry.cameras.RingRig",
                    "init_args": {"num_views": 3, "fov_deg": 150.0, "height": 16, "width": 16},
                },
                "num_val": 2,
            },
        },
    }


def write_config(path: Path, config: dict) -> Path:
    """Write a config as YAML."""
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path
