"""Take a run through fit, generate, evaluate and report by the commands that a user types."""

import io
import json
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from mvdiff.cli.main import main
from mvdiff.samples.pixels import read_png
from tests.training.tiny_run import write_config


@dataclass(frozen=True)
class Run:
    """What the commands wrote below a folder, and what evaluate printed."""

    folder: Path
    printed: str

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @cached_property
    def results(self) -> dict[str, Any]:
        return json.loads((self.folder / "results.json").read_text())

    @cached_property
    def page(self) -> str:
        return (self.folder / "report.html").read_text(encoding="utf-8")

    def described(self, name: str) -> Any:
        """JSON of the model folder."""
        return json.loads((self.model / name).read_text())

    def views(self, which: str, sample_id: str, num_views: int = 3) -> torch.Tensor:
        """Return a sample's PNGs, uint8 [V, 3, H, W]."""
        return torch.stack([read_png(self.folder / which / sample_id / f"{view}.png") for view in range(num_views)])


def training(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Shorten a run to two optimizer steps that leave a model folder."""
    trainer = config["trainer"] | {"max_steps": 2, "num_sanity_val_steps": 0, "limit_val_batches": 1, "logger": False}
    save = {"class_path": "mvdiff.training.callbacks.SaveModelFolder", "init_args": {"dirpath": str(folder / "model")}}
    trainer |= {"default_root_dir": str(folder), "callbacks": [save], "enable_progress_bar": False}
    return config | {"trainer": trainer}


def generating(folder: Path, out: str = "generated", **changed: str) -> list[str]:
    """Return the command that generates the test split; `changed` names other files."""
    files = {"model": str(folder / "model"), "config": str(folder / "run.yaml"), "out": str(folder / out)} | changed
    command = ["generate", "dataset", *(word for name, value in files.items() for word in (f"--{name}", value))]
    return [*command, "--num_inference_steps", "2", "--guidance_scale", "1", "--device", "cpu"]


def take_through(folder: Path, config: dict[str, Any], metric: str = "sharpness", plugin: str | None = None) -> Run:
    """Run the four commands and see each succeed."""
    folder.mkdir(exist_ok=True)
    run = write_config(folder / "run.yaml", training(folder, config))
    plugins = [] if plugin is None else ["--plugin", plugin]
    generated, real, results = (str(folder / name) for name in ("generated", "real", "results.json"))
    assert main(["fit", "--config", str(run)]) == 0
    assert main([*generating(folder, reference=real), *plugins]) == 0
    with redirect_stdout(io.StringIO()) as printed:
        evaluate = ["evaluate", "--generated", generated, "--reference", real, "--metrics", metric]
        assert main([*evaluate, "--num_workers", "0", "--out", results]) == 0
    assert main(["report", results, "--out", str(folder / "report.html")]) == 0
    return Run(folder, printed.getvalue())
