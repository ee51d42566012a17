"""A section's run on one tree: the command line, the pipelines, and what is kept of the files they write."""

import csv
import importlib
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from .spelling import Spelling

MODELS = {"panorama": "mvdiff://toy-caa", "outpaint": "mvdiff://toy-outpaint", "depth": "mvdiff://toy-depth"}
SAMPLING = {"num_inference_steps": 4, "guidance_scale": 2.0, "seed": 7}


@dataclass
class Run:
    """One section on one tree.

    Attributes:
        work: Folder of the tree's files; sections find here what the sections before them wrote.
        name: Name of the section.
        words: Spelling of the tree.
        tensors: Results to compare bit for bit.
        numbers: Results to compare to 1e-9; strings must be equal.
    """

    work: Path
    name: str
    words: Spelling
    tensors: dict[str, Tensor] = field(default_factory=dict)
    numbers: dict[str, float | str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Folder of this section's own files."""
        return section_folder(self.work, self.name)

    @property
    def world(self) -> Path:
        """Folder of the toy world."""
        return self.work / "world"

    def walks(self, split: str) -> list[Path]:
        """Return the toy walks of a split."""
        return sorted((self.world / "scannet" / split).iterdir())

    def cli(self, command: str, options: str = "", **names: Any) -> None:
        """Run a command line of the spelling, with options after it; a failure shows the end of what it printed."""
        words = f"{self.words.commands[command]} {options}".split()
        arguments = [sys.executable, *self.words.program, *(word.format(**names) for word in words)]
        done = subprocess.run(arguments, cwd=self.work, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(arguments[1:])}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}")

    def pipeline(self, task: str, model: str | Path | None = None) -> Any:
        """Open a task's pipeline with a model folder, by default its packaged one."""
        module, name = self.words.pipelines[task]
        pipeline = getattr(importlib.import_module(module), name).from_pretrained(model or MODELS[task])
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def keep_call(self, key: str, pipeline: Any, *args: Any, **settings: Any) -> None:
        """Call a pipeline for latents and for uint8 views, and keep both."""
        settings = SAMPLING | settings
        self.tensors[f"{key}/latents"] = pipeline(*args, output_type="latent", **settings).images
        output = pipeline(*args, output_type="uint8", **settings)
        self.tensors[f"{key}/views"] = output.images
        for name in ("panoramas", "covered", "known"):
            if output.get(name) is not None:
                self.tensors[f"{key}/{name}"] = output[name]
        self.keep_values(f"{key}/known_psnr", output.get("known_psnr") or [])

    def keep_weights(self, key: str, path: Path) -> None:
        """Keep the tensors of a safetensors file."""
        self.tensors |= {f"{key}/{name}": value for name, value in load_file(path).items()}

    def keep_checkpoint(self, path: Path) -> None:
        """Keep the averaged and the last weights of a checkpoint under their own names."""
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        for key, entry in self.words.checkpoint_weights:
            for name, value in checkpoint[entry].items():
                for prefix in self.words.weight_prefixes:
                    name = name.removeprefix(prefix)
                self.tensors[f"{key}/{name}"] = value

    def keep_csv(self, key: str, path: Path) -> None:
        """Keep what a run logged, by step."""
        with path.open() as file:
            for row in csv.DictReader(file):
                logged = {name: float(value) for name, value in row.items() if value and name not in ("epoch", "step")}
                self.keep_values(f"{key}/epoch {row['epoch']}, step {row['step']}", logged)

    def keep_results(self, key: str, path: Path, parts: tuple[str, ...] | None = None) -> None:
        """Keep the numbers of a results.json, and which are missing; by default those of `evaluate`."""
        results = json.loads(path.read_text())
        found = {part: results[part] for part in parts or self.words.result_numbers if part in results}
        if not found:
            raise ValueError(f"no numbers in {path}: {', '.join(results)}")
        self.keep_values(key, found, strings=False)

    def keep_samples(self, key: str, root: Path) -> None:
        """Keep the images of sample folders, and what their sample.json says of cameras, prompts and seed."""
        records = sorted(root.rglob("sample.json"))
        if not records:
            raise FileNotFoundError(f"no sample folders in {root}")
        for record in records:
            place = f"{key}/{record.parent.relative_to(root).as_posix()}"
            values = json.loads(record.read_text())
            self.keep_values(place, {name: values.get(name) for name in self.words.sample_fields})
            for path in sorted(record.parent.rglob("*.png")):
                self.tensors[f"{place}/{path.relative_to(record.parent).as_posix()}"] = read_image(path)

    def keep_values(self, key: str, value: Any, strings: bool = True) -> None:
        """Keep the numbers (and strings) of nested dicts and lists; of a missing number keep that it is missing."""
        if isinstance(value, dict):
            for name, item in value.items():
                self.keep_values(f"{key}/{name}", name == "missing" or item, strings)
        elif isinstance(value, list | tuple):
            for index, item in enumerate(value):
                self.keep_values(f"{key}/{index}", item, strings)
        elif isinstance(value, int | float) or (strings and isinstance(value, str)):
            self.numbers[key] = value


def section_folder(work: Path, name: str) -> Path:
    """Return the folder of a section's own files."""
    return work / name.replace(" ", "_")


def read_image(path: Path) -> Tensor:
    """Read an image as a tensor; 16-bit depth as int32."""
    pixels = np.array(Image.open(path))
    return torch.from_numpy(pixels.astype(np.int32) if pixels.dtype != np.uint8 else pixels)


def uint8_picture(height: int, width: int, seed: int) -> np.ndarray:
    """Return a [H, W, 3] picture of coloured ramps, by whole numbers alone."""
    y, x = np.mgrid[:height, :width]
    channels = [(3 * x + 5 * y + 40 * seed) % 256, (7 * y + 11 * seed) % 256, (2 * x * (1 + seed % 3)) % 256]
    return np.stack(channels, axis=-1).astype(np.uint8)


def read_frames(scene: Path, numbers: range) -> dict[str, Any]:
    """Read frames of a toy walk: images [V, 3, H, W], depths in metres [V, H, W], K, R, t, prompts."""
    colours = [np.array(Image.open(scene / "color" / f"{i}.jpg")) for i in numbers]
    depths = [np.array(Image.open(scene / "depth" / f"{i}.png")).astype(np.float32) / 1000 for i in numbers]
    poses = torch.from_numpy(np.stack([np.loadtxt(scene / "pose" / f"{i}.txt") for i in numbers]))
    K = torch.from_numpy(np.loadtxt(scene / "intrinsic" / "intrinsic_depth.txt")[:3, :3])
    return {
        "images": torch.from_numpy(np.stack(colours)).permute(0, 3, 1, 2) / 127.5 - 1,
        "depths": torch.from_numpy(np.stack(depths)),
        "K": K.expand(len(numbers), 3, 3).clone(),
        "R": poses[:, :3, :3].clone(),
        "t": poses[:, :3, 3].clone(),
        "prompts": [(scene / "prompt" / f"{i}.txt").read_text().strip() for i in numbers],
    }
