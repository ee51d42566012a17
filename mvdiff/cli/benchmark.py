"""`mvdiff benchmark`: comparisons of methods and of parts of them, made again."""

from mvdiff.cli.ablations import ABLATIONS

SUMMARY = "comparisons made again: samples, scores, paired differences"
COMMANDS = (ABLATIONS,)
