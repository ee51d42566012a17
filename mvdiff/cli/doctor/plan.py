"""Check of the run itself: model, steps, validations, learning rate, and the places it writes to."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from torch.optim.lr_scheduler import LRScheduler

from mvdiff.cli.command import plural
from mvdiff.cli.doctor.findings import Finding, size
from mvdiff.cli.doctor.run import RunToCheck
from mvdiff.pipelines.checkpoint import read_checkpoint
from mvdiff.training.monitors import check_monitors
from mvdiff.training.optimization import OptimizedModule
from mvdiff.training.plan import Steps, effective_batch, has_validation, parameter_counts

_MOST_STEPS = 300_000
_CHECKPOINT_COPIES = 3
"""Copies of the trained weights in a checkpoint: their values and Adam's two moments."""


def check_model(run: RunToCheck) -> Iterator[Finding]:
    """Build the model as fit does, count its parameters, and try the checkpoint on it."""
    model = run.model
    model.configure_model()
    run.opened.add("model")
    trained, frozen = parameter_counts(model)
    text = f"{type(model).__name__}: {trained:,} parameters are trained, {frozen:,} frozen"
    yield Finding("ok", text) if trained else Finding("problem", text, "Leave something to train.")
    path = run.settings.ckpt_path
    if path is None or run.checkpoint_error is not None or not Path(path).is_file():
        return
    try:
        checkpoint = read_checkpoint(path)
        model.on_load_checkpoint(checkpoint)
        model.load_state_dict(checkpoint["state_dict"])
        yield Finding("ok", "ckpt_path: its weights are those of this model")
    except (ValueError, RuntimeError) as error:
        remedy = "Use the YAML file that the checkpoint was trained with, or another checkpoint."
        yield Finding.of_error(ValueError(error), "ckpt_path", remedy=remedy)


def check_plan(run: RunToCheck) -> Iterator[Finding]:
    """Report batches, optimizer steps, validations, the learning rate and the places that are written to."""
    yield from _places(run)
    try:
        trainer, data = run.planned_trainer, run.data
    except Exception as error:  # of a Trainer's many settings
        yield Finding.of_error(error)
        yield Finding("not checked", "batch, steps and learning rate: they need the trainer")
        return
    run.opened.add("trainer")
    yield from _monitors(run, trainer)
    batch = getattr(data, "batch_size", None)
    if batch is not None:
        yield Finding("ok", f"effective batch {effective_batch(trainer, batch)}")
    if "data" not in run.opened:
        yield Finding("not checked", "steps, validations and learning rate: they need the data")
        return
    data.trainer = trainer
    try:
        steps = Steps.of(trainer, len(data.train_dataloader()))
    except TypeError:
        yield Finding("not checked", "steps, validations and learning rate: the training loader has no length")
        return
    finally:
        data.trainer = None
    samples = "" if batch is None else f" ({plural(steps.batches * batch, 'sample')})"
    end = "no end is set" if steps.total is None else f"{steps.total} in all, {plural(steps.epochs, 'epoch')}"
    yield Finding(
        "ok" if steps.total is not None else "warning",
        f"{plural(steps.batches, 'batch')} per epoch and device{samples}, "
        f"{plural(steps.per_epoch, 'optimizer step')} per epoch; {end}",
        "" if steps.total is not None else "Set trainer.max_epochs or trainer.max_steps.",
    )
    yield Finding("ok", _validations(run, trainer, steps))
    yield from _learning_rate(run, trainer, steps)


def _monitors(run: RunToCheck, trainer: Trainer) -> Iterator[Finding]:
    """Report callbacks that watch a number which is not logged."""
    if "model" in run.opened and isinstance(run.model, OptimizedModule):
        try:
            check_monitors(trainer.callbacks, run.model, has_validation(trainer, run.data))
        except ValueError as error:
            yield Finding.of_error(error, "trainer.callbacks")


def _validations(run: RunToCheck, trainer: Trainer, steps: Steps) -> str:
    every, epochs = trainer.val_check_interval, trainer.check_val_every_n_epoch
    if not has_validation(trainer, run.data):
        return "no validation"
    if isinstance(every, float) and every == 1.0:
        count = None if steps.epochs is None else steps.epochs // (epochs or 1)
        text = "validation after " + ("every epoch" if epochs == 1 else f"every {epochs} epochs")
    else:
        every = int(steps.batches * every) if isinstance(every, float) else every
        batches = None if steps.total is None else steps.total * trainer.accumulate_grad_batches
        count = None if batches is None else batches // max(every, 1)
        text = f"validation every {plural(every, 'batch')}"
    generated = run.arguments_of("model").get("num_validation_samples")
    samples = f", {plural(generated, 'sample')} generated each time" if generated else ""
    return text + ("" if count is None else f", {count} in all") + samples


def _learning_rate(run: RunToCheck, trainer: Trainer, steps: Steps) -> Iterator[Finding]:
    """Run the schedule on its own and report its first, highest and last rate."""
    if "model" not in run.opened:
        yield Finding("not checked", "learning rate: it needs the model")
        return
    model = run.model
    model.trainer, trainer.datamodule = trainer, run.data
    try:
        optimizers = model.configure_optimizers()
    except ValueError as error:
        yield Finding.of_error(error)
        return
    except Exception as error:  # of a user's model, which may need more of a trainer than one that was never started
        yield Finding("not checked", f"learning rate: {type(error).__name__} where the optimizer is built")
        return
    finally:
        model.trainer = None
    if not isinstance(optimizers, dict) or steps.total is None:
        yield Finding("not checked", "learning rate: its schedule is not one of a single optimizer with an end")
        return
    optimizer = optimizers["optimizer"]
    described = optimizers.get("lr_scheduler")
    described = described if isinstance(described, dict) else {"scheduler": described}
    scheduler, interval = described["scheduler"], described.get("interval", "epoch")
    rates = [optimizer.param_groups[0]["lr"]]
    if scheduler is None:
        yield Finding("ok", f"{type(optimizer).__name__}, learning rate {rates[0]:g} throughout")
        return
    count = steps.epochs if interval == "epoch" else steps.total
    if not isinstance(scheduler, LRScheduler) or hasattr(scheduler, "patience") or count > _MOST_STEPS:
        yield Finding("not checked", f"learning rate: {type(scheduler).__name__} cannot be run ahead")
        return
    remedy = f"Set the schedule's length to the run's {plural(count, interval)}."
    try:
        with warnings.catch_warnings(action="ignore"):  # torch misses the optimizer's own steps
            for _ in range(count):
                scheduler.step()
                rates.append(optimizer.param_groups[0]["lr"])
            rates.pop()  # set after the last step, and used by none
    except ValueError as error:
        yield Finding.of_error(error, type(scheduler).__name__, remedy=remedy)
        return
    top = max(range(len(rates)), key=rates.__getitem__)
    text = (
        f"{type(optimizer).__name__}, {type(scheduler).__name__} per {interval}: learning rate {rates[0]:.3g} at "
        f"first, {rates[top]:.3g} at {interval} {top}, {rates[-1]:.3g} at the last"
    )
    if rates[-1] > 1.001 * min(rates[top:]):
        yield Finding("warning", f"{text}, above its lowest, {min(rates[top:]):.3g}", remedy)
    else:
        yield Finding("ok", text)


def _places(run: RunToCheck) -> Iterator[Finding]:
    """Report the folders that the run writes to, whether it may, and the space there."""
    writable: dict[Path, list[str]] = {}
    for purpose, place in _folders(run).items():
        path = Path(place).absolute()
        existing = next(parent for parent in (path, *path.parents) if parent.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK):
            kind = "may not be written to" if existing.is_dir() else "is a file"
            yield Finding("problem", f"{purpose}: {place} cannot be written, {existing} {kind}", "Set another folder.")
        else:
            writable.setdefault(existing, []).append(f"{purpose} to {place}")
    for existing, places in writable.items():
        free = shutil.disk_usage(existing).free
        needed = _checkpoint_bytes(run.model) if "model" in run.opened else 0
        text = f"writes {', '.join(places)}; free there: {size(free)}"
        if needed:
            text += f", a checkpoint takes about {size(needed)}"
        enough = free > 4 * needed  # the last, the one before, the best, and the one that is being written
        yield Finding("ok", text) if enough else Finding("warning", text, "Free some space, or set another folder.")


def _folders(run: RunToCheck) -> dict[str, str]:
    trainer, model = run.settings.trainer, run.arguments_of("model")
    places = {"the run": trainer.default_root_dir or "."}
    loggers = trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]
    for logger in loggers:
        arguments = getattr(logger, "init_args", {})
        if "save_dir" in arguments and arguments["save_dir"] is not None:
            places["logs and checkpoints"] = str(Path(arguments["save_dir"]) / (arguments.get("name") or ""))
    for callback in trainer.callbacks or []:
        folder = getattr(callback, "init_args", {}).get("dirpath")
        if folder is not None:
            places[callback.class_path.rpartition(".")[2]] = folder
    for purpose, place in (("model.out", model.get("out")), ("model.cache", (model.get("cache") or {}).get("dir"))):
        if place is not None:
            places[purpose] = place
    return places


def _checkpoint_bytes(model: LightningModule) -> int:
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return _CHECKPOINT_COPIES * trained
