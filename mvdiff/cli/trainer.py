"""`mvdiff fit|validate|test|predict` as the overview and their help show them; `mvdiff.cli.train` runs them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from mvdiff.cli.command import Command

_HELP_OF = {
    "--model.help": "mvdiff.training.multi_view.MultiViewModule",
    "--data.help": "mvdiff.data.datamodule.Matterport3DDataModule",
}
"""Classes that are explained where none is named."""


def run(name: str, words: Sequence[str]) -> int:
    """Show the help or run the command; return the exit status."""
    if {"-h", "--help"} & set(words):
        from mvdiff.cli.train_help import help_text

        print(help_text(next(command for command in COMMANDS if command.name == name)))
        return 0
    if "--trainer.help" in words:
        from mvdiff.cli.train_help import trainer_help

        print(trainer_help())
        return 0
    from mvdiff.cli.train import run_trainer, say_next

    following = [*words[1:], "--"][: len(words)]
    words = [
        f"{word}={_HELP_OF[word]}" if word in _HELP_OF and after.startswith("-") else word
        for word, after in zip(words, following, strict=True)
    ]
    say_next(run_trainer([name, *words]))
    return 0


def _command(summary: str, description: str, example: str) -> Command:
    name = example.split()[1]
    run_it = partial(run, name)
    return Command(name=name, summary=summary, description=description, example=example, settings=None, run=run_it)


COMMANDS = (
    _command(
        "train a model from a YAML file",
        "Train the model that YAML files describe. Writes logs, checkpoints, the settings (config.yaml) and a model "
        "folder (`model`) into the run's folder.",
        "mvdiff fit --config pano.yaml",
    ),
    _command(
        "held-out loss and overlap PSNR of a checkpoint",
        "Compute the held-out loss of a checkpoint, and generate and score the first validation samples. Prints a "
        "table, and logs into the run's folder.",
        "mvdiff validate --config pano.yaml --ckpt_path runs/pano/version_0/checkpoints/last.ckpt",
    ),
    _command(
        "generate the test split and score it",
        "Generate the test split with a checkpoint and score it. Writes generated/, reference/ and results.json into "
        "samples/ in the run's folder, or into model.output.dir.",
        "mvdiff test --config pano.yaml --ckpt_path runs/pano/version_0/checkpoints/best-9.ckpt",
    ),
    _command(
        "generate the test split of a data set, on one or more devices",
        "Generate the panoramas or frames of the test split with a checkpoint. Writes sample folders into samples/ in "
        "the run's folder, or into model.output.dir; complete ones are kept.",
        "mvdiff predict --config pano.yaml --ckpt_path runs/pano/version_0/checkpoints/best-9.ckpt",
    ),
)
