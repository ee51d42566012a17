"""`mvdiff generate`: panoramas from prompts, or frames of scenes with depth, into sample folders; a file per task."""

from mvdiff.cli.generate import dataset, depth, outpaint, panorama

SUMMARY = "panoramas from prompts or around pictures, frames of a scene from depth and poses"
COMMANDS = (panorama.COMMAND, outpaint.COMMAND, depth.COMMAND, dataset.COMMAND)
