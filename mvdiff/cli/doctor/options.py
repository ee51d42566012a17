"""Options of `mvdiff doctor` beside those of `mvdiff fit`."""

from collections.abc import Sequence

from jsonargparse import ArgumentParser

_HELP = """Look at a run before it is started: weights and files, data, steps, memory, and one real training step. Takes
every argument of `mvdiff fit`; leaves nothing behind and downloads nothing. Exits with 1 if something would keep the
run from working. Example: mvdiff doctor --config pano.yaml --trainer.devices 4"""


def help_parser() -> ArgumentParser:
    """Return a parser that explains the command without importing what it needs to run."""
    parser = ArgumentParser(prog="mvdiff doctor", description=_HELP)
    parser.add_argument(
        "--config", action="append", metavar="YAML", help="A run's file, or a packaged one's name; repeat to overlay."
    )
    add_options(parser)
    return parser


def add_options(parser: ArgumentParser) -> None:
    """Add the command's own options."""
    parser.add_argument(
        "--all_data", action="store_true", help="Check every file of the data set, as `mvdiff data check` does."
    )
    parser.add_argument("--no_step", action="store_true", help="Leave out the training step.")
    parser.add_argument(
        "--json", type=str | None, default=None, metavar="FILE", help="Also write the findings as JSON."
    )


def without_options(arguments: Sequence[str]) -> list[str]:
    """Return the arguments that `mvdiff fit` takes.

    >>> without_options(["--config", "pano.yaml", "--no_step", "--json", "out.json", "--trainer.devices", "4"])
    ['--config', 'pano.yaml', '--trainer.devices', '4']
    """
    kept: list[str] = []
    previous = ""
    for argument in arguments:
        name = argument.partition("=")[0]
        if name not in ("--all_data", "--no_step", "--json") and previous != "--json":
            kept.append(argument)
        previous = argument
    return kept
