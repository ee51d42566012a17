"""`mvdiff fit|validate|test|predict`: LightningCLI with a launcher bridge and a total batch size."""

import argparse
import os
import signal
import textwrap
import warnings
from argparse import ArgumentError
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from jsonargparse import ActionConfigFile, set_parsing_settings
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from rich import get_console

from mvdiff.class_paths import allow_plugins, allow_plugins_of
from mvdiff.cli.command import done, typed
from mvdiff.cli.config_files import has_config, with_config_paths
from mvdiff.cli.export import next_of_model
from mvdiff.cli.mistakes import missing_value, of_worker, readable, unknown_setting
from mvdiff.cli.out_files import check_folder
from mvdiff.cli.progress import quiet_libraries
from mvdiff.cli.renamed import check_names
from mvdiff.cli.run_config import SaveRunConfig, fingerprint, prepare_folders, resumes
from mvdiff.cli.run_parser import RunParser, expand_home, keep_last_average
from mvdiff.files.writing import check_plain_folder
from mvdiff.pipelines.checkpoint import read_checkpoint
from mvdiff.run_files import EXTENDS
from mvdiff.signals import stopped_by
from mvdiff.training.callbacks import SaveModelFolder
from mvdiff.training.checkpoint_files import CheckpointFiles, damage, previous_of, whole_or_previous
from mvdiff.training.evaluation_watch import EvaluationWatch
from mvdiff.training.launch import check_world_size, with_launcher_settings
from mvdiff.training.newest import newest_checkpoint
from mvdiff.training.optimization import OptimizedModule, accumulation_steps
from mvdiff.training.own_folders import own_folders
from mvdiff.training.progress import TrainingProgressBar
from mvdiff.training.run_checkpoints import TRAINING_KEYS
from mvdiff.training.run_folder import NoLogger, folder_on_first_rank
from mvdiff.training.slurm_jobs import keep_jobs_apart, slurm_job
from mvdiff.training.stopping import ended_by_signal, handle_signals
from mvdiff.training.strategies import check_strategy_class
from mvdiff.training.watch import TrainingWatch

_OTHER_WEIGHTS = "Error(s) in loading state_dict"


class MVDiffCLI(LightningCLI):
    """LightningCLI in subclass mode: model, data, trainer and callbacks are classes named by YAML.

    Differs from Lightning's: `--total_batch_size` sets gradient accumulation, launchers' process counts reach the
    Trainer, the model's settings come from YAML and flags only (never from the checkpoint), and the progress bar
    counts steps where steps end the training.
    """

    def __init__(self, args: Sequence[str]) -> None:
        """Parse and run; `args` begin with the subcommand."""
        # The frozen base is in evaluation mode on purpose; the second one is between Lightning and torch; the third
        # asks for as many workers as the machine has cores, also for a few small files, and names no setting of ours;
        # the fourth is not true of our runs (`keep_metrics`).
        warnings.filterwarnings("ignore", message=".*in eval mode at the start of training")
        warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\)")
        warnings.filterwarnings("ignore", message="The '\\w+_dataloader' does not have many workers")
        warnings.filterwarnings("ignore", message="Experiment logs directory .* exists and is not empty")
        quiet_libraries()
        set_parsing_settings(docstring_parse_attribute_docstrings=True)  # the help of settings classes
        self._command = args[0]
        # Subcommand parsers take settings of their own: errors are raised, not printed below pages of usage.
        how = {"exit_on_error": False, "allow_abbrev": False}
        parser_kwargs = {"prog": "mvdiff", **how} | {name: dict(how) for name in self.subcommands()}
        super().__init__(
            model_class=LightningModule,
            datamodule_class=LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            save_config_callback=SaveRunConfig,
            seed_everything_default=0,
            trainer_defaults={"use_distributed_sampler": False, "enable_model_summary": False},  # TrainingWatch reports
            parser_kwargs=parser_kwargs,
            args=list(args),
        )

    def subcommands(self) -> dict[str, set[str]]:
        """Return the subcommand that runs: the parsers of the others would double the time until it starts."""
        return {self._command: super().subcommands()[self._command]}

    def init_parser(self, **kwargs) -> RunParser:
        """Make a parser that reads files on top of each other."""
        parser = RunParser(**kwargs)
        text = "YAML file; repeat to combine files: later ones override earlier ones."
        parser.add_argument("-c", "--config", action=ActionConfigFile, help=text)
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add `--total_batch_size` and `--plugin`; let files have the key `extends`."""
        self.settings_parser = parser
        parser.add_argument(f"--{EXTENDS}", type=str | None, default=None, help=argparse.SUPPRESS)
        parser.add_argument(
            "--total_batch_size",
            type=int | None,
            default=None,
            help="Samples per optimizer step over all devices, a multiple of data.batch_size x devices x nodes; sets "
            "trainer.accumulate_grad_batches, which must be left at 1 (default: accumulation as in "
            "trainer.accumulate_grad_batches).",
        )
        parser.add_argument(
            "--plugin",
            action="append",  # with a type the list in a file, as in every config.yaml, would become text
            default=[],
            metavar="MODULE",
            help="Python package from which the model may load classes; its code is executed; repeat for several.",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Sequence[str]) -> None:
        """Parse, with packaged configs found by name and the launcher's settings added."""
        args = with_config_paths(args)
        check_names(args)
        try:
            self.config = parser.parse_args(with_launcher_settings(args, os.environ))
        except ArgumentError as error:
            message = str(error)
            text = unknown_setting(message, self._names_of) or missing_value(message, args) or readable(message)
            if "arguments are required: " in text and not has_config(args):
                text = "--config must be given, such as --config pano.yaml"
            raise ValueError(f"{text.rstrip('.')}. Run mvdiff {args[0]} --help for all settings.") from error
        settings = expand_home(self.config[self.config.subcommand])
        keep_last_average(settings)

    def _names_of(self, class_path: str | None) -> list[str]:
        """Return the dotted settings of a class; of None, those of the command."""
        parser = self.settings_parser
        if class_path is not None:
            module, _, name = class_path.rpartition(".")
            parser = LightningArgumentParser()
            parser.add_class_arguments(getattr(import_module(module), name), fail_untyped=False)
        return list(parser.get_defaults().keys())

    def _parse_ckpt_path(self) -> None:
        """Take no settings from a checkpoint: it brings weights, and loading it checks that they fit."""

    def before_instantiate_classes(self) -> None:
        """Load checkpoints without running any code in them, unless asked otherwise; first look at what they hold.

        The folder that receives the trained weights is checked before anything is trained.

        The modules of the task and the attention in the user's own settings count as named by the user.
        """
        settings = self.config[self.subcommand]
        allow_plugins(*(settings.plugin if isinstance(settings.plugin, list) else [settings.plugin]))
        allow_plugins_of(settings.as_dict().get("model"))
        out = ((settings.as_dict().get("model") or {}).get("init_args") or {}).get("out")
        if self.subcommand == "fit" and out is not None:
            check_folder(Path(out), "model.out")
            check_plain_folder(Path(out))
        self._check_strategy()
        if settings.weights_only is None:
            settings.weights_only = True
        if settings.weights_only and settings.ckpt_path is not None:
            settings.ckpt_path = check_checkpoint(settings.ckpt_path, resume=self.subcommand == "fit")

    def _check_strategy(self) -> None:
        """Refuse a strategy that cannot train the module; modules of others' own are left to Lightning."""
        settings = self.config[self.subcommand]
        class_path = (settings.as_dict().get("model") or {}).get("class_path")
        if not class_path:
            return
        module, _, name = class_path.rpartition(".")
        kind = getattr(import_module(module), name)
        if isinstance(kind, type) and issubclass(kind, OptimizedModule):
            check_strategy_class(settings.trainer.strategy, kind)

    def before_fit(self) -> None:
        """Prepare the run's folder; refuse that of another training."""
        again = resumes(self.trainer, self._get(self.config, "ckpt_path"))
        if again:
            warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
        prepare_folders(self.trainer, is_new=not again)

    def before_validate(self) -> None:
        """Prepare the run's folder."""
        prepare_folders(self.trainer, is_new=False)

    before_test = before_predict = before_validate

    def instantiate_trainer(self, **kwargs):
        """Build the Trainer and check it against the launcher; for `fit`, set the gradient accumulation.

        Checkpoints are `CheckpointFiles`, unless the strategy or a plugin of the user writes them its own way.
        """
        trainer_config = self._get(self.config_init, "trainer")
        callbacks = trainer_config.get("callbacks") or []
        callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
        settings = kwargs | self._shown(callbacks, trainer_config.get("enable_progress_bar") is not False)
        if settings.get("logger", trainer_config.get("logger")) in (False, []):
            settings["logger"] = NoLogger(trainer_config.get("default_root_dir") or os.getcwd())  # as the Trainer
        trainer = super().instantiate_trainer(**settings)
        check_world_size(trainer.world_size, os.environ)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = CheckpointFiles()
        handle_signals(trainer)
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
        in_job = slurm_job(os.environ) is not None
        run = fingerprint(self._parser(self.subcommand), self.config[self.subcommand]) if in_job else ""
        keep_jobs_apart(trainer, run)
        settings = self.config_init[self.subcommand]
        if settings.get("ckpt_path") == "last":  # doctor has none
            settings.ckpt_path = str(newest_checkpoint(trainer, resumes=self.subcommand == "fit"))
        return trainer

    def _shown(self, callbacks: list[Callback], progress: bool) -> dict[str, Any]:
        """Return the Trainer's callbacks with those that report progress: a bar on a terminal, lines elsewhere."""
        has_bar = any(isinstance(callback, ProgressBar) for callback in callbacks)
        on_terminal = get_console().is_terminal
        lines = progress and not has_bar and not on_terminal
        watch = TrainingWatch(lines=lines) if self.subcommand == "fit" else EvaluationWatch() if lines else None
        if watch is not None and not any(isinstance(callback, type(watch)) for callback in callbacks):
            callbacks = [*callbacks, watch]
        if progress and not has_bar and on_terminal:
            callbacks = [*callbacks, TrainingProgressBar()]
            has_bar = True
        return {"callbacks": callbacks, "enable_progress_bar": progress and has_bar}

    def _run_subcommand(self, subcommand: str) -> None:
        """Run in folders that no other run writes to, and say what was saved if a signal ends it."""
        with own_folders(self.trainer, locks=subcommand == "fit"), ended_by_signal(self.trainer):
            super()._run_subcommand(subcommand)


def run_trainer(arguments: Sequence[str]) -> MVDiffCLI:
    """Run one trainer subcommand with its options.

    Raises:
        ValueError: A setting is unknown or wrong, the model or data refuse one, or the checkpoint is another model's.
    """
    try:
        with stopped_by(signal.SIGINT):
            return MVDiffCLI(arguments)
    except (ValueError, MisconfigurationException) as error:
        message = of_worker(str(error))
        raise ValueError(unknown_setting(message, lambda _: ()) or readable(message)) from error
    except RuntimeError as error:
        if not str(error).startswith(_OTHER_WEIGHTS):
            raise
        raise ValueError(
            "--ckpt_path must hold exactly the weights of the model; got a checkpoint of another model: "
            f"{textwrap.shorten(str(error), 300)}. Use the YAML file it was trained with."
        ) from error


def say_next(cli: MVDiffCLI) -> None:
    """Print on the first rank what a finished run wrote, and what to type next."""
    if not cli.trainer.is_global_zero:
        return
    if cli.trainer.fast_dev_run:
        print(f"trainer.fast_dev_run: {cli.subcommand} ran through and wrote nothing.")
    elif cli.subcommand == "fit":
        _say_next_of_fit(cli)
    elif cli.subcommand == "validate":
        config = typed("mvdiff", "test", "--config", "YAML", "--ckpt_path", cli.trainer.ckpt_path or "CKPT")
        done(f"{folder_on_first_rank(cli.trainer)}: logged the losses above", config)
    else:
        folder, scores = cli.model.output_folder, " and scores" * (cli.subcommand == "test")
        done(f"{folder}: samples{scores}", typed("mvdiff", "report", folder))


def _say_next_of_fit(cli: MVDiffCLI) -> None:
    folders = [callback.folder for callback in cli.trainer.callbacks if isinstance(callback, SaveModelFolder)]
    checkpoint = getattr(cli.trainer.checkpoint_callback, "best_model_path", "")
    if folders and folders[0] is not None:
        done(f"{folders[0]}: model folder", next_of_model(folders[0], cli.model.task.name, cli.model.base))
    elif hasattr(cli.model, "out"):
        done(
            f"{cli.model.out}: trained weights",
            typed("mvdiff", "fit", "--config", "YAML", "--model.base", cli.model.out),
        )
    elif checkpoint:
        done(f"{checkpoint}: checkpoint", typed("mvdiff", "export", checkpoint, "--out", "model"))


def check_checkpoint(path: str, resume: bool) -> str:
    """Return the checkpoint to load: the file of `--ckpt_path`, or to resume a damaged one, that before it.

    Names and places that Lightning looks up itself ("last", a folder, another file system) are left to it.

    Raises:
        ValueError: The file is damaged, no training checkpoint, or none to resume from.
    """
    local = Path(path)
    if not local.is_file() and not (resume and previous_of(local).is_file()):
        return path
    needed = TRAINING_KEYS if resume else TRAINING_KEYS[:1]
    if resume:
        path = str(whole_or_previous(local))
    elif (problem := damage(local)) is not None:
        raise ValueError(problem)
    missing = [name for name in needed if name not in read_checkpoint(path, lazy=True)]
    if missing:
        raise ValueError(
            f"--ckpt_path must be a checkpoint of training; got a file without {', '.join(missing)}: {path}."
        )
    return path
