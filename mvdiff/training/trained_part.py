"""Base of LightningModules that train one part of a model: checkpoints contain only that part."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from lightning.pytorch import Callback
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import nn
from torch.nn.modules.module import _IncompatibleKeys

from mvdiff.files.refusals import plain_refusals
from mvdiff.training.inputs import BatchInputs
from mvdiff.training.optimization import OptimizedModule
from mvdiff.training.sharded_weights import spread_weights

ROUNDING = ("bf16-true", "16-true")
"""Precisions of Lightning in which it casts every tensor of a batch."""


class TrainedPartModule(OptimizedModule):
    """LightningModule whose checkpoints contain only what is trained: the submodule named by `trained_part`.

    The state dict has keys `<trained_part>.<name>`, and those of other parts of `trained()`. Loading requires exactly
    the same keys and shapes, so a checkpoint of another model is an error.
    """

    trained_part: ClassVar[str] = "adapter"
    """Name of the attribute with the trained submodule."""
    inputs: BatchInputs | None = None
    """Inputs of the model, which count captions; None for a model without text."""

    def trained(self) -> nn.ModuleDict:
        """Return what is trained, averaged and saved, by the first part of its keys in checkpoints."""
        return nn.ModuleDict({self.trained_part: getattr(self, self.trained_part)})

    def configure_callbacks(self) -> list[Callback]:
        """Add the callbacks of `OptimizedModule`; Lightning calls this first.

        Raises:
            ValueError: The Trainer's precision would round cameras and depths.
        """
        if str(self.trainer.precision) in ROUNDING:
            raise ValueError(
                "trainer.precision must leave cameras and depths in float32; got "
                f"{self.trainer.precision}, which casts the whole batch. Use bf16-mixed; in multi-view training, "
                "model.base_dtype: bfloat16 holds the frozen base in half precision."
            )
        return super().configure_callbacks()

    def on_train_epoch_end(self) -> None:
        """Warn, once, of captions that the text encoder reads only in part or that are empty."""
        for line in self.inputs.captions.report() if self.inputs is not None else ():
            rank_zero_warn(f"{line}.")

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Self:
        """Load a checkpoint as Lightning does, but import no classes that the file names (its `_instantiator`)."""
        with plain_refusals("checkpoint", checkpoint_path):
            return super().load_from_checkpoint(checkpoint_path, *args, **(kwargs | {"_instantiator": None}))

    def state_dict(self, *args: Any, destination=None, prefix: str = "", keep_vars: bool = False) -> dict[str, Any]:
        """Return the trained weights under `<prefix><trained_part>.`; those of a sharded run are shards."""
        return self.trained().state_dict(destination=destination, prefix=prefix, keep_vars=keep_vars)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False):
        """Load the trained weights.

        Args:
            state_dict: Whole weights with exactly the keys of `state_dict()`.
            strict: Must be True.
            assign: See `torch.nn.Module.load_state_dict`.

        Raises:
            ValueError: `strict` is False, or the keys or shapes belong to another model.
        """
        if not strict:
            raise ValueError("strict must be True; got False. A partly loaded model generates wrong images.")
        expected = self.state_dict()
        missing = sorted(expected.keys() - state_dict.keys())
        unexpected = sorted(state_dict.keys() - expected.keys())
        wrong = sorted(
            f"{name} {list(state_dict[name].shape)} instead of {list(value.shape)}"
            for name, value in expected.items()
            if name in state_dict and state_dict[name].shape != value.shape
        )
        if missing or unexpected or wrong:
            counts = (_some(missing, "missing"), _some(unexpected, "unexpected"), _some(wrong, "with a wrong shape"))
            raise ValueError(
                f"the checkpoint must have exactly the weights of this {type(self).__name__}; got a checkpoint of "
                f"another model: {', '.join(counts)}."
            )
        trained = self.trained()
        trained.load_state_dict(spread_weights(state_dict, trained), strict=True, assign=assign)
        return _IncompatibleKeys([], [])


def _some(names: list[str], what: str) -> str:
    return f"{len(names)} {what}" + (f" (first: {names[0]})" if names else "")
