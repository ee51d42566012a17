"""`mvdiff doctor`: look at a run before it is started: weights, data, steps, memory, and one real step.

`command` runs the checks, `findings` prints what they find, `run` parses and builds the run as `mvdiff fit` does.
"""

from collections.abc import Sequence
from dataclasses import replace

from mvdiff.cli.command import Command


def run_doctor(words: Sequence[str]) -> int:
    """Check a run; return the exit status, 0 if no check found a problem.

    Args:
        words: Arguments of `mvdiff fit`, and the options of this command.

    Raises:
        ValueError: A setting of the run is unknown or wrong.
    """
    if "-h" in words or "--help" in words:
        from mvdiff.cli.doctor.options import DoctorOptions
        from mvdiff.cli.options import CommandParser

        CommandParser(replace(COMMANDS[0], settings=(DoctorOptions,))).print_help()
        return 0
    from mvdiff.cli.doctor.command import check_run

    return check_run(list(words))


COMMANDS = (
    Command(
        name="doctor",
        summary="check a run's weights, data, steps and memory before you start it",
        description="Check a run without starting it: weights and files, data, steps, memory, and one real training "
        "step. Downloads nothing, and writes only the --json file. Exits with status 1 if a check fails.",
        example="mvdiff doctor --config pano.yaml",
        settings=None,  # it takes the arguments of `mvdiff fit`
        run=run_doctor,
    ),
)
