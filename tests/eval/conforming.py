"""Samples and results that conform to a protocol, made from its values without any picture or network."""

from pathlib import Path
from typing import Any

import torch
import yaml

from mvdiff.eval.protocol import Protocol
from mvdiff.eval.sample import ScoredSample
from mvdiff.eval.sources import DataSource
from mvdiff.geometry.cameras import Rig, RingRig

IDS = {
    "mvdiffusion-pano-v1": "17DRP5sb8fy_00ebbf3782c64d74aaf7dd39cd561175",
    "mvdiffusion-pano-community-v1": "17DRP5sb8fy_00ebbf3782c64d74aaf7dd39cd561175",
    "mvdiffusion-depth-v1": "scene0707_00_keyframes_120",
    "toy-pano-v1": "toy00008_toy00008",
    "toy-depth-v1": "toy00008_keyframes_0",
}
SMALL = """
title: four small samples
task: panorama
data: {ids: 's\\d+'}
images: {num_samples: 4, num_reference_samples: 4, num_views: 8, height: 12, width: 12, rig: RIG}
sampling: {seed: 5, num_inference_steps: 3, guidance_scale: 2, eta: 0, negative_prompt: "", prompt_prefix: "",
  scheduler: DDIMScheduler, precision: float32}
metrics: [overlap_psnr, sharpness]
settings: {overlap_size: 0, overlap_pairs: adjacent, overlap_depth_error: 0.5, seed: 0, num_resamples: 100}
numbers:
  overlap_psnr_pooled:
    model: homography
    variant: "squared error pooled over all pixels; adjacent pairs; the images' own size;
      pixels whose warped mask is exactly one"
"""
RECORDED = {
    "num_inference_steps": 3,
    "guidance_scale": 2.0,
    "eta": 0.0,
    "negative_prompt": None,
    "prompt_prefix": "",
    "scheduler": "DDIMScheduler",
    "dtype": "float32",
}


def small_protocol() -> dict[str, Any]:
    """The values of a protocol of four small samples."""
    rig = [list(view) for view in RingRig(num_views=8, height=12, width=12).views]
    return yaml.safe_load(SMALL.replace("RIG", str(rig)))


def write_protocol(path: Path, **changes: Any) -> Path:
    """Write the small protocol; changes are values by dotted name, joined by double underscores."""
    values = small_protocol()
    for name, value in changes.items():
        *groups, key = name.split("__")
        place = values
        for group in groups:
            place = place[group]
        place[key] = value
    path.write_text(yaml.safe_dump(values))
    return path


def conforming_sample(protocol: Protocol) -> ScoredSample:
    """A sample of the right size, cameras, id and record; its pixels are black."""
    images, sampling = protocol.images, protocol.sampling
    num_views, height, width = images.num_views or 2, images.height or 4, images.width or 6
    if images.rig is None:
        K, R = torch.eye(3).expand(num_views, 3, 3), torch.eye(3).expand(num_views, 3, 3)
    else:
        K, R = Rig(images.rig, height, width).cameras(yaw_offset_deg=protocol.data.yaw)
    recorded = {name: getattr(sampling, name) for name in sampling.__dataclass_fields__}
    recorded["dtype"] = recorded.pop("precision")
    recorded["prompt_prefix"] = sampling.prompt_prefix or ""  # None would pass under any protocol
    by_depth = {"depths": torch.ones(num_views, height, width), "t": torch.rand(num_views, 3)}
    return ScoredSample(
        IDS.get(protocol.id, "any"),
        torch.zeros(num_views, 3, height, width, dtype=torch.uint8),
        K,
        R,
        ["a room"] * num_views,
        **(by_depth if protocol.task == "depth" else {}),
        seed=0 if sampling.seed is None else sampling.seed,
        settings=recorded,
    )


def conforming_results(protocol: Protocol) -> dict[str, Any]:
    """Results with the right counts, and an entry for every number."""
    images, prompts_hash = protocol.images, protocol.data.prompts_hash or "0"
    counts = images.num_samples or 1, images.num_reference_samples or 1
    metrics = {
        name: {
            "value": 1.0,
            "model": f"{rule.model} (openai)",
            **(
                {}
                if rule.model in ("homography", "depth and pose", "finite differences")
                else {"weights_hash": f"{rule.weights_hash or 0}".ljust(64, "0")}
            ),
            "variant": rule.variant,
            "per_sample": {"a": 1.0, "b": 2.0},
        }
        for name, rule in protocol.numbers.items()
    }
    reference = {"kind": f"{protocol.data.split} split of the data section", "num_samples": counts[1]}
    generated = {"num_samples": counts[0], "prompts_hash": prompts_hash.ljust(64, "0")}
    return {"generated": generated, "reference": reference, "metrics": metrics}


def conforming_reference(protocol: Protocol) -> DataSource:
    """The split of the protocol, of no data."""
    return DataSource(None, protocol.data.split)
