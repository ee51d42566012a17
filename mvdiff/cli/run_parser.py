"""The parser of a run's settings: YAML files on top of each other, printed with what follows from them."""

import ast
import re
from typing import Any

import lightning
from jsonargparse import Namespace, get_loader, set_loader
from lightning.pytorch.cli import LightningArgumentParser
from yaml import YAMLError

from mvdiff.files.paths import expanded_values
from mvdiff.training.schedules import describe

AVERAGE = "mvdiff.training.ema.TrainedWeightsEMA"

_yaml = get_loader("yaml")


def _load(text: str) -> Any:
    """Read YAML, or the Python text that jsonargparse makes of a value which it has read, to read it once more.

    It does so for options of nested settings, where null in a mapping would become the text "None".
    """
    if text == "None" or text[:1] in ("{", "["):
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):  # not Python
            return _yaml(text)
        if value is None or isinstance(value, dict | list):
            return value
    return _yaml(text)


set_loader("yaml", _load, (YAMLError,))


class RunParser(LightningArgumentParser):
    """A parser that prints and saves a run with a comment on its learning-rate schedule."""

    def format_help(self) -> str:
        """Return the help with "None:" of the classes' texts as `null:`, which is what YAML and options take."""
        return re.sub(r"\bNone:", "null:", super().format_help())

    def dump(self, namespace: Namespace, *args: Any, **kwargs: Any) -> str:
        """Write settings as YAML."""
        if "trainer" in namespace:
            namespace = namespace.clone()
            keep_last_average(namespace)
            line = describe(namespace.clone(with_meta=False).as_dict())
            self.dump_header = [f"lightning.pytorch=={lightning.__version__}", *([line] if line else [])]
        return super().dump(namespace, *args, **kwargs)


def expand_home(value: Any) -> Any:
    """Replace `~` at the start of every text in parsed settings, in place; return them."""
    if isinstance(value, Namespace):
        for name, one in vars(value).items():
            setattr(value, name, expand_home(one))
        return value
    return list(map(expand_home, value)) if isinstance(value, list) else expanded_values(value)


def keep_last_average(settings: Namespace) -> None:
    """Remove all weight averages but the last from the callbacks of a run."""
    callbacks = settings.get("trainer.callbacks")
    if isinstance(callbacks, list):
        averages = [place for place, callback in enumerate(callbacks) if callback["class_path"] == AVERAGE]
        settings["trainer.callbacks"] = [one for place, one in enumerate(callbacks) if place not in averages[:-1]]
