"""`mvdiff fit|validate|test|predict`: LightningCLI with a launcher bridge and a total batch size."""

import os
import textwrap
import warnings
from argparse import ArgumentError
from collections.abc import Sequence
from pathlib import Path

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from mvdiff.class_paths import allow_plugins, allow_plugins_of
from mvdiff.cli.config_files import with_config_paths
from mvdiff.cli.renamed import check_names
from mvdiff.pipelines.checkpoint import read_checkpoint
from mvdiff.training.launch import check_world_size, with_launcher_settings
from mvdiff.training.optimization import accumulation_steps
from mvdiff.training.progress import TrainingProgressBar

_OTHER_WEIGHTS = "Error(s) in loading state_dict"
_PARSER_NOISE = (
    "Does not validate against any of the Union subtypes",
    "Subtypes:",
    "Errors:",
    "Expected a <class 'NoneType'>",
    "Given value",
)


class MVDiffCLI(LightningCLI):
    """LightningCLI in subclass mode: model, data, trainer and callbacks are classes named by YAML.

    Differs from Lightning's: `--total_batch_size` sets gradient accumulation, launchers' process counts reach the
    Trainer, the model's settings come from YAML and flags only (never from the checkpoint), and the progress bar
    counts steps where steps end the training.
    """

    def __init__(self, args: Sequence[str]) -> None:
        """Parse and run; `args` begin with the subcommand."""
        # The frozen base is in evaluation mode on purpose; the second one is between Lightning and torch.
        warnings.filterwarnings("ignore", message=".*in eval mode at the start of training")
        warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\)")
        # Subcommand parsers take settings of their own: errors are raised, not printed below pages of usage.
        parser_kwargs = {"prog": "mvdiff", "exit_on_error": False}
        parser_kwargs |= {name: {"exit_on_error": False} for name in self.subcommands()}
        super().__init__(
            model_class=LightningModule,
            datamodule_class=LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            save_config_kwargs={"overwrite": True},
            seed_everything_default=0,
            trainer_defaults={"use_distributed_sampler": False},
            parser_kwargs=parser_kwargs,
            args=list(args),
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add `--total_batch_size` and `--plugin`."""
        parser.add_argument(
            "--total_batch_size",
            type=int | None,
            default=None,
            help="Samples per optimizer step over all devices; sets trainer.accumulate_grad_batches.",
        )
        parser.add_argument(
            "--plugin",
            action="append",
            type=str,
            default=[],
            metavar="MODULE",
            help="Let model.init_adapter name classes of this package of yours; repeat for others. The modules of "
            "model.task and model.adapter.attention in your own YAML are let in anyway.",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Sequence[str]) -> None:
        """Parse, with packaged configs found by name and the launcher's settings added."""
        args = with_config_paths(args)
        check_names(args)
        self.config = parser.parse_args(with_launcher_settings(args, os.environ))

    def _parse_ckpt_path(self) -> None:
        """Take no settings from a checkpoint: it brings weights, and loading it checks that they fit."""

    def before_instantiate_classes(self) -> None:
        """Load checkpoints without running any code in them, unless asked otherwise; first look at what they hold.

        The modules of the task and the attention in the user's own settings count as named by the user.
        """
        settings = self.config[self.subcommand]
        allow_plugins(*settings.plugin)
        allow_plugins_of(settings.as_dict().get("model"))
        if settings.weights_only is None:
            settings.weights_only = True
        if settings.weights_only and settings.ckpt_path is not None:
            check_checkpoint(settings.ckpt_path, resume=self.subcommand == "fit")

    def instantiate_trainer(self, **kwargs):
        """Build the Trainer and check it against the launcher; for `fit`, set the gradient accumulation."""
        trainer_config = self._get(self.config_init, "trainer")
        callbacks = trainer_config.get("callbacks") or []
        callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
        has_bar = any(isinstance(callback, ProgressBar) for callback in callbacks)
        if trainer_config.get("enable_progress_bar") is not False and not has_bar:
            callbacks = [*callbacks, TrainingProgressBar()]
        trainer = super().instantiate_trainer(**(kwargs | {"callbacks": callbacks}))
        check_world_size(trainer.world_size, os.environ)
        total_batch_size = self._get(self.config, "total_batch_size")
        if self.subcommand == "fit" and total_batch_size is not None:
            if trainer.accumulate_grad_batches != 1:
                raise ValueError(
                    "trainer.accumulate_grad_batches must be left at 1 when total_batch_size is set; got "
                    f"{trainer.accumulate_grad_batches}. Remove one of the two."
                )
            trainer.accumulate_grad_batches = accumulation_steps(
                total_batch_size, self.datamodule.batch_size, trainer.world_size
            )
        return trainer


def run_trainer(arguments: Sequence[str]) -> int:
    """Run one trainer subcommand with its options; return the exit status, 0.

    Raises:
        ValueError: A setting is unknown or wrong, the model or data refuse one, or the checkpoint is another model's.
    """
    try:
        MVDiffCLI(arguments)
    except ArgumentError as error:
        raise ValueError(f"{readable(str(error))}. Run mvdiff {arguments[0]} --help for all settings.") from error
    except (ValueError, MisconfigurationException) as error:
        raise ValueError(readable(str(error))) from error
    except RuntimeError as error:
        if not str(error).startswith(_OTHER_WEIGHTS):
            raise
        raise ValueError(
            "--ckpt_path must hold exactly the weights of the model; got a checkpoint of another model: "
            f"{textwrap.shorten(str(error), 300)}. Use the YAML file it was trained with."
        ) from error
    return 0


def check_checkpoint(path: str, resume: bool) -> None:
    """Raise ValueError where the file of `--ckpt_path` is no training checkpoint, or none to resume from.

    Names and places that Lightning looks up itself ("last", a folder, another file system) are left to it.
    """
    if not Path(path).is_file():
        return
    needed = ["pytorch-lightning_version", *(["optimizer_states", "loops"] if resume else [])]
    missing = [name for name in needed if name not in read_checkpoint(path, lazy=True)]
    if missing:
        raise ValueError(
            f"--ckpt_path must be a checkpoint of training; got a file without {', '.join(missing)}: {path}."
        )


def readable(message: str) -> str:
    """Shorten a parser's error to the mistake, without the types it tried and the values it was given.

    >>> print(readable("Parser key model:\\n  Errors:\\n    - Option 'sise' is not accepted\\n  Given value: {}"))
    Parser key model: Option 'sise' is not accepted
    """
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    return " ".join(line for line in lines if line and not line.startswith(_PARSER_NOISE))
