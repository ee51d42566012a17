"""LightningModules that train one part beside a frozen base: checkpoints hold that part and nothing else."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from torch import nn
from torch.nn.modules.module import _IncompatibleKeys

from mvdiff.training.optimization import OptimizedModule


class TrainedPartModule(OptimizedModule):
    """Keep everything but the submodule named by `trained_part` out of checkpoints.

    The state dict has keys `<trained_part>.<name>`; loading compares the key sets and shapes exactly, so a checkpoint
    of another model is an error rather than a partly loaded one.
    """

    trained_part: ClassVar[str] = "adapter"

    def trained(self) -> nn.Module:
        """Return the submodule that is trained, averaged and saved."""
        return getattr(self, self.trained_part)

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Self:
        """Load a checkpoint as Lightning does, but never by an `_instantiator`, which imports what the file names."""
        return super().load_from_checkpoint(checkpoint_path, *args, **(kwargs | {"_instantiator": None}))

    def state_dict(self, *args: Any, destination=None, prefix: str = "", keep_vars: bool = False) -> dict[str, Any]:
        """Return the trained part's weights under `<prefix><trained_part>.`."""
        return self.trained().state_dict(
            destination=destination, prefix=f"{prefix}{self.trained_part}.", keep_vars=keep_vars
        )

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False):
        """Load the trained part's weights.

        Args:
            state_dict: Exactly the keys of `state_dict()`.
            strict: Must be True: a part of a model is no model.
            assign: As in torch.

        Raises:
            ValueError: The keys or shapes are those of another model.
        """
        if not strict:
            raise ValueError("strict must be True; got False: a partly loaded model gives wrong images.")
        expected = self.state_dict()
        missing = sorted(expected.keys() - state_dict.keys())
        unexpected = sorted(state_dict.keys() - expected.keys())
        wrong = sorted(
            f"{name} {list(state_dict[name].shape)} instead of {list(value.shape)}"
            for name, value in expected.items()
            if name in state_dict and state_dict[name].shape != value.shape
        )
        if missing or unexpected or wrong:
            found = ", ".join((_some(missing, "missing"), _some(unexpected, "unexpected"), _some(wrong, "misshapen")))
            raise ValueError(
                f"the checkpoint must hold exactly the weights of this {type(self).__name__}; got a checkpoint of "
                f"another model: {found}."
            )
        prefix = f"{self.trained_part}."
        part = {name.removeprefix(prefix): value for name, value in state_dict.items()}
        self.trained().load_state_dict(part, strict=True, assign=assign)
        return _IncompatibleKeys([], [])


def _some(names: list[str], what: str) -> str:
    return f"{len(names)} {what}" + (f" (first: {names[0]})" if names else "")
