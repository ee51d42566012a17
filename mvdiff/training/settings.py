"""Settings of training runs, free of torch; the string under a field is its help on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mvdiff.eval.settings import EvaluationSettings
from mvdiff.files.paths import expanded_values


@dataclass(frozen=True, kw_only=True)
class OutputSettings:
    """Output of `test` and `predict`, and how `test` scores it."""

    dir: str | None = None
    """folder that receives the samples; None: `samples` in the run's folder"""
    overwrite: bool = False
    """regenerate samples that are already complete"""
    method: str = "mvdiffusion"
    """method that makes the samples (docs/methods.md): a name, such as independent, or a class path"""
    controlnet: str | None = None
    """folder or hub id of the ControlNet that `method` needs; None: none"""
    base: str | None = None
    """folder, hub id or packaged name of the base that `method` needs beside the trained model; None: none"""
    metrics: list[str | dict[str, Any]] | None = None
    """metrics of `test`: names, class paths or `{class_path, init_args}`; None: those of `mvdiff evaluate`"""
    evaluation: EvaluationSettings | None = None
    """protocol of the metrics of `test`: a mapping with option names of `mvdiff evaluate`, such as {"num_splits": 5};
    None: the paper's"""

    protocol: str | None = None
    """protocol of `test`, in place of `metrics`: an id (`mvdiff protocols` lists them), or a YAML file of your own;
    what deviates from it is logged and stored in results.json"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "dir", expanded_values(self.dir))
        object.__setattr__(self, "protocol", expanded_values(self.protocol))
        if self.protocol is not None and self.metrics is not None:
            raise ValueError(f"output.metrics must be null with output.protocol {self.protocol}; got {self.metrics}.")
