"""Check that ModelCheckpoint and EarlyStopping watch a number that the run will log.

Lightning finds out after the first validation, which may be hours into a training.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from mvdiff.training.nonfinite import NonFiniteGuard
from mvdiff.training.step_log import StepLog

_ALWAYS = ("epoch", "step")
"""Names that Lightning adds for ModelCheckpoint."""


def check_monitors(callbacks: Sequence[Callback], module: LightningModule, validates: bool = True) -> None:
    """Check the `monitor` of every ModelCheckpoint and EarlyStopping.

    What is logged is in `logged_names` of the module and of the callbacks. Nothing is checked where a module or a
    callback of another package does not say what it logs.

    Args:
        callbacks: Those of the Trainer; the two that every `OptimizedModule` adds need not be among them.
        module: An `OptimizedModule`.
        validates: False if the run has no validation, and so logs no `val/...`.

    Raises:
        ValueError: A name is not logged in this run.
    """
    speakers = [one for one in (module, *callbacks) if not type(one).__module__.startswith("lightning.")]
    if not all(_says_what_it_logs(one) for one in speakers):
        return
    added = StepLog(), NonFiniteGuard(module.on_nonfinite)
    logged = {name for one in (*added, *speakers) for name in getattr(one, "logged_names", ())}
    names = sorted(name for name in logged if validates or not name.startswith("val/"))
    for callback in callbacks:
        if not isinstance(callback, ModelCheckpoint | EarlyStopping) or callback.monitor is None:
            continue
        also = _ALWAYS if isinstance(callback, ModelCheckpoint) else ()
        if not any(fnmatchcase(callback.monitor, name) for name in (*names, *also)):
            run = "this run" if validates else "this run, which has no validation"
            raise ValueError(
                f"{type(callback).__name__}.monitor ({callback.monitor!r}) is not logged in {run}. Logged: "
                f"{', '.join(names)}."
            )


def _says_what_it_logs(one: Callback | LightningModule) -> bool:
    """Return False for a class outside mvdiff that inherits `logged_names`, or has none: it may log more."""
    return type(one).__module__.startswith("mvdiff.") or "logged_names" in vars(type(one))
