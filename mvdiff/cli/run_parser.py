"""The parser of a run's settings: YAML files on top of each other, printed with what follows from them."""

from typing import Any

import lightning
from jsonargparse import ActionConfigFile, Namespace
from lightning.pytorch.cli import LightningArgumentParser

from mvdiff.training.schedules import describe

AVERAGE = "mvdiff.training.ema.TrainedWeightsEMA"


class RunParser(LightningArgumentParser):
    """A parser that prints and saves a run with a comment on its learning-rate schedule."""

    def dump(self, namespace: Namespace, *args: Any, **kwargs: Any) -> str:
        """Write settings as YAML."""
        if "trainer" in namespace:
            line = describe(namespace.clone(with_meta=False).as_dict())
            self.dump_header = [f"lightning.pytorch=={lightning.__version__}", *([line] if line else [])]
        return super().dump(namespace, *args, **kwargs)


class RunFile(ActionConfigFile):
    """A YAML file on top of those before; of several averages of the weights among the callbacks, the last counts."""

    @staticmethod
    def apply_config(parser: LightningArgumentParser, cfg: Namespace, dest: str, value: str) -> None:
        """Add a file's settings."""
        ActionConfigFile.apply_config(parser, cfg, dest, value)
        callbacks = cfg.get("trainer.callbacks")
        if isinstance(callbacks, list):
            averages = [callback for callback in callbacks if callback["class_path"] == AVERAGE]
            cfg["trainer.callbacks"] = [one for one in callbacks if one not in averages[:-1]]
