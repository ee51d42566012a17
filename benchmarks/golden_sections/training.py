"""Three steps of each packaged training, with an average of the weights; test samples of the packaged models."""

import json
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from .run import Run, uint8_picture


def train(run: Run) -> None:
    """Train three steps; keep losses, checkpoint and what was exported of it. Resume, where the training says so."""
    training, names = run.words.trainings[run.name], overlays(run, run.name)
    if run.name == "train equirectangular":
        write_panoramas(run.folder / "panoramas")
    run.cli("fit", config=training.config, overlay=names["overlay"])
    run.keep_csv("fit", run.folder / "logs" / "metrics.csv")
    checkpoint = run.folder / "checkpoints" / "last.ckpt"
    run.keep_checkpoint(checkpoint)
    run.keep_weights("written by fit", run.folder / training.out)
    if training.test is not None:
        run.cli("export", checkpoint=checkpoint, out=run.folder / "exported")
        run.keep_weights("exported", run.folder / "exported" / Path(training.out).relative_to("model"))
    if training.resumes:
        run.cli("resume", config=training.config, overlay=names["overlay"], checkpoint=checkpoint)
        run.keep_csv("resumed", run.folder / "logs" / "metrics.csv")
        run.keep_weights("resumed", run.folder / training.out)


def test(run: Run) -> None:
    """Generate and score the held-out samples of a data module with a packaged model."""
    training = run.words.trainings[run.name.replace("test", "train")]
    run.cli("test", config=training.config, **overlays(run, run.name.replace("test", "train")))
    run.keep_samples("test", run.folder / "test")
    run.keep_results("results", run.folder / "test" / "results.json")


def write_panoramas(root: Path) -> None:
    """Write equirectangular images with prompts and lists."""
    root.mkdir()
    for seed in range(6):
        Image.fromarray(uint8_picture(64, 128, seed)).save(root / f"{seed}.png")
        prompts = {"0": f"a red lamp {seed}", "180": "a blue table", "up": "a ceiling"}
        (root / f"{seed}.json").write_text(json.dumps({"prompts": prompts}))
    (root / "train.txt").write_text("0\n1\n2\n3\n")
    (root / "test.txt").write_text("4\n5\n")


def overlays(run: Run, name: str) -> dict[str, Path]:
    """Write the YAML files of a training into the section's folder; return their paths."""
    training = run.words.trainings[name]
    run.folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for kind in ("overlay", "test", "truth"):
        values = filled(getattr(training, kind), world=run.world, folder=run.folder)
        written[kind] = run.folder / f"{kind}.yaml"
        written[kind].write_text(yaml.safe_dump(values, sort_keys=False))
    return written


def filled(value: Any, **names: Path) -> Any:
    """Fill names in braces into the strings of nested dicts and lists."""
    if isinstance(value, dict):
        return {key: filled(item, **names) for key, item in value.items()}
    if isinstance(value, list):
        return [filled(item, **names) for item in value]
    return value.format(**names) if isinstance(value, str) else value
