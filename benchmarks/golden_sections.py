"""The sections of `golden.py`: each runs one part of one tree and keeps its tensors and numbers.

    python benchmarks/golden_sections.py SECTION --tree TREE --work FOLDER

runs a single section; `golden.py` does that for every section of both trees, with PYTHONPATH, threads and the rest of
the environment fixed. mvdiff is reached by its command line, by YAML files and by the pipelines' public calls alone.
"""

import argparse
import hashlib
import importlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from golden_spelling import Spelling, spelling
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

SEED = 7
SAMPLING = {"num_inference_steps": 4, "guidance_scale": 2.0, "seed": SEED}
MODELS = {"panorama": "mvdiff://toy-caa", "outpaint": "mvdiff://toy-outpaint", "depth": "mvdiff://toy-depth"}
PROMPTS = ["a red sofa and a blue lamp, green walls", "a yellow table, white walls"]
VARIANTS = {
    "caa": {},
    "base": {"caa": False},
    "attention off": {"attention_enabled": False},
    "foreign neighbours": {"neighbour_batch": [1, 0]},
}


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
        return self.work / self.name

    def cli(self, *arguments: Any) -> str:
        """Run `mvdiff` and return what it printed; a failure shows the end of its error output."""
        command = [sys.executable, *self.words.cli, *map(str, arguments)]
        done = subprocess.run(command, cwd=self.work, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command[1:])} failed:\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}")
        return done.stdout

    def pipeline(self, task: str, model: Any = None) -> Any:
        """Open a task's pipeline with its packaged model, or with `model`."""
        module, name = {task: (module, name) for task, module, name in self.words.pipelines}[task]
        pipeline = getattr(importlib.import_module(module), name).from_pretrained(model or MODELS[task])
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def keep(self, key: str, pipeline: Any, *args: Any, **settings: Any) -> None:
        """Call a pipeline for latents and for uint8 views, and keep both."""
        settings = SAMPLING | settings
        self.tensors[f"{key}/latents"] = pipeline(*args, output_type="latent", **settings).images
        output = pipeline(*args, output_type="uint8", **settings)
        self.tensors[f"{key}/views"] = output.images
        for name in ("panoramas", "covered", "known"):
            if output.get(name) is not None:
                self.tensors[f"{key}/{name}"] = output[name]
        for index, value in enumerate(output.get("known_psnr") or []):
            self.numbers[f"{key}/known_psnr/{index}"] = value


def world(run: Run) -> None:
    """Write a toy world of panoramas and walks; every file must have the same bytes."""
    options = {"rooms": 6, "test_rooms": 2, "size": 64, "num_frames": 24, "seed": SEED}
    run.cli("data", "toyworld", run.folder, *flags(options))
    for path in sorted(path for path in run.folder.rglob("*") if path.is_file()):
        run.numbers[path.relative_to(run.folder).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()


def panorama(run: Run) -> None:
    """Generate panoramas: CAA, the plain base and both controls, for one sample and for two."""
    pipeline = run.pipeline("panorama")
    call_variants(run, pipeline, PROMPTS)
    per_view = [[f"{prompt}, view {view}" for view in range(8)] for prompt in PROMPTS]
    run.keep("prompt per view", pipeline, per_view, sample_ids=["one", "two"])
    run.keep("eta", pipeline, PROMPTS, eta=0.7, negative_prompt="blurry", guidance_scale=3.0)
    run.keep("no guidance", pipeline, PROMPTS[:1], guidance_scale=1.0, panorama_height=48)


def outpaint(run: Run) -> None:
    """Continue pictures and given views: CAA, the plain base and both controls, for one sample and for two."""
    pipeline = run.pipeline("outpaint")
    views, known = (
        torch.stack([picture(64, 64, view) for view in range(16)]).view(2, 8, 3, 64, 64),
        torch.zeros(2, 8, 1, 64, 64),
    )
    known[0, 0], known[1, 0], known[1, 3, :, 16:40, 8:] = 1, 1, 1
    call_variants(run, pipeline, PROMPTS, images=views, known=known)
    photos = [Image.fromarray(uint8_picture(48, 64, seed)) for seed in (100, 101)]
    angles = {"fov_deg": [65.0, 80.0], "yaw_deg": [20.0, -100.0], "pitch_deg": 5.0}
    run.keep("pictures", pipeline, PROMPTS, image=photos, **angles)
    run.keep("pictures not put back", pipeline, PROMPTS[:1], image=photos[0], fov_deg=65.0, paste_back=False)


def depth(run: Run) -> None:
    """Generate frames of two toy walks: CAA, the plain base and both controls, padding, given frames."""
    pipeline = run.pipeline("depth")
    scenes = [read_frames(scene, range(0, 20, 4)) for scene in toy_scenes(run)]
    frames = {name: torch.stack([scene[name] for scene in scenes]) for name in ("depths", "K", "R", "t")}
    prompts = [scene["prompts"] for scene in scenes]
    call_variants(run, pipeline, prompts, **frames)
    valid = torch.tensor([[True] * 5, [True] * 4 + [False]])
    run.keep("padding", pipeline, prompts, view_valid=valid, **frames)
    images, known = torch.stack([scene["images"] for scene in scenes]), torch.zeros(2, 5, 1, 48, 64)
    known[0, [0, 4]] = 1  # sample 1 is generated: it takes nothing from the image-condition blocks
    for variant in ("caa", "base"):
        given = {"images": images, "known": known, "frame_ids": [range(0, 20, 4)] * 2}
        run.keep(f"given frames, {variant}", pipeline, prompts, **given, **frames, **VARIANTS[variant])


def call_variants(run: Run, pipeline: Any, prompts: list, **inputs: Tensor) -> None:
    """Keep each variant of a call for both samples, and for the first one alone where it has neighbours of its own."""
    for variant, settings in VARIANTS.items():
        run.keep(f"{variant}, batch 2", pipeline, prompts, **inputs, **settings)
        if variant != "foreign neighbours":
            first = {name: value[:1] for name, value in inputs.items()}
            run.keep(f"{variant}, batch 1", pipeline, prompts[:1], **first, **settings)


def uint8_picture(height: int, width: int, seed: int) -> np.ndarray:
    """Return a [H, W, 3] picture of coloured ramps, by whole numbers alone."""
    y, x = np.mgrid[:height, :width]
    channels = [(3 * x + 5 * y + 40 * seed) % 256, (7 * y + 11 * seed) % 256, (2 * x * (1 + seed % 3)) % 256]
    return np.stack(channels, axis=-1).astype(np.uint8)


def picture(height: int, width: int, seed: int) -> Tensor:
    """Return a picture as [3, H, W] in [-1, 1]."""
    return torch.from_numpy(uint8_picture(height, width, seed)).permute(2, 0, 1) / 127.5 - 1


def toy_scenes(run: Run, split: str = "test") -> list[Path]:
    """Return the toy walks of a split."""
    return sorted((run.work / "world" / "scannet" / split).iterdir())


def read_frames(scene: Path, numbers: range) -> dict[str, Any]:
    """Read frames of a toy walk: images [V, 3, H, W], depths in metres [V, H, W], K, R, t, prompts."""
    colours = [np.asarray(Image.open(scene / "color" / f"{i}.jpg")) for i in numbers]
    depths = [np.asarray(Image.open(scene / "depth" / f"{i}.png")).astype(np.float32) / 1000 for i in numbers]
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


def flags(options: dict[str, Any]) -> list[str]:
    """Return options as `--name value ...`."""
    return [str(part) for name, value in options.items() for part in (f"--{name}", value)]


@dataclass(frozen=True)
class Section:
    """A part of the comparison, and the sections whose files it reads."""

    run: Callable[[Run], None]
    needs: tuple[str, ...] = ()


SECTIONS = {
    "world": Section(world),
    "panorama": Section(panorama),
    "outpaint": Section(outpaint),
    "depth": Section(depth, ("world",)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Run one section of golden.py on one tree.")
    parser.add_argument("section", choices=SECTIONS)
    parser.add_argument("--tree", type=Path, required=True, help="root of the tree; PYTHONPATH must name it")
    parser.add_argument("--work", type=Path, required=True, help="folder of the tree's files")
    args = parser.parse_args()
    package = Path(importlib.util.find_spec("mvdiff").origin).resolve()
    if args.tree.resolve() not in package.parents:
        raise SystemExit(f"mvdiff must be that of {args.tree}; got {package}.")
    run = Run(args.work.resolve(), args.section, spelling(args.tree))
    SECTIONS[args.section].run(run)
    results = args.work / "results"
    results.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in run.tensors.items()}
    save_file(tensors, results / f"{args.section}.safetensors")
    (results / f"{args.section}.json").write_text(json.dumps(run.numbers, indent=1))


if __name__ == "__main__":
    main()
