"""Run one section on the tree that PYTHONPATH names first; `golden.py` starts this."""

import argparse
import importlib.util
import json
import os
from pathlib import Path

from safetensors.torch import save_file

from . import SECTIONS
from .run import Run
from .spelling import spelling

parser = argparse.ArgumentParser(prog="golden_sections", description="Run one section of golden.py on one tree.")
parser.add_argument("section", choices=SECTIONS)
parser.add_argument("--tree", type=Path, required=True, help="root of the tree")
parser.add_argument("--work", type=Path, required=True, help="folder of the tree's files")
args = parser.parse_args()
package = Path(importlib.util.find_spec("mvdiff").origin).resolve()
if args.tree.resolve() not in package.parents:
    raise SystemExit(f"mvdiff must be that of {args.tree}; got {package}.")
os.environ["PYTHONPATH"] = str(args.tree)  # of the command lines that the section runs
run = Run(args.work.resolve(), args.section, spelling(args.tree))
SECTIONS[args.section].run(run)
results = args.work / "results"
results.mkdir(parents=True, exist_ok=True)
tensors = {key: value.detach().cpu().contiguous().clone() for key, value in run.tensors.items()}
save_file(tensors, results / f"{args.section}.safetensors")
(results / f"{args.section}.json").write_text(json.dumps(run.numbers, indent=1))
