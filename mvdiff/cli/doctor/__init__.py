"""`mvdiff doctor`: look at a run before it is started: weights, data, steps, memory, and one real step.

`command` runs the checks, `findings` prints what they find, `run` parses and builds the run as `mvdiff fit` does.
"""

from collections.abc import Sequence


def run_doctor(words: Sequence[str]) -> int:
    """Check a run; return the exit status, 0 if no check found a problem.

    Args:
        words: Arguments of `mvdiff fit`, and the options of this command.

    Raises:
        ValueError: A setting of the run is unknown or wrong.
    """
    from mvdiff.cli.doctor.options import help_parser

    if "-h" in words or "--help" in words:
        help_parser().print_help()
        return 0
    from mvdiff.cli.doctor.command import check_run

    return check_run(list(words))
