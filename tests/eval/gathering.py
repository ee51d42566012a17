"""A process of test_processes.py: update metrics with a share of the samples, compute, write what comes out.

The third sample is seen by both processes, and the second process sees no real sample.
"""

import json
from pathlib import Path

from torch import distributed as dist

from mvdiff.eval.extractors import toy_extractor
from mvdiff.eval.metric_specs import MetricBuilder, parse_specs
from mvdiff.eval.metrics.kid import KID
from mvdiff.eval.sources import FolderSource

SHARES = {0: ([0, 1, 2], [0, 1, 2, 3]), 1: ([3, 2], [])}


class ToyKID(KID):
    """KID over the toy features."""

    load_network = staticmethod(toy_extractor)


def scores(generated, real, metrics, settings) -> dict:
    """Compute every metric of some samples; Result by column, as JSON."""
    builder, out = MetricBuilder(settings), {}
    for metric, init_args in parse_specs(metrics).items():
        built = builder.build(metric, init_args)
        for samples, is_real in ((generated, False), (real, True)):
            for sample in samples:
                built.update(sample, is_real)
        names = {sample.key: sample.sample_id for sample in generated}
        out |= {name: result.to_json(Names(names)) for name, result in built.compute().items()}
    return out


class Names(dict):
    """Names of samples; those that another process saw stand as their keys."""

    def __missing__(self, key):
        return str(key)


def gather(folder: Path) -> None:
    """Update metrics with the share of this process."""
    dist.init_process_group("gloo")
    plan = json.loads((folder / "plan.json").read_text())
    own, real = (
        [list(FolderSource(Path(plan[name])))[i] for i in chosen]
        for name, chosen in zip(("generated", "real"), SHARES[dist.get_rank()], strict=True)
    )
    found = scores(own, real, plan["metrics"], plan["settings"])
    (folder / f"{dist.get_rank()}.json").write_text(json.dumps(found))
    dist.destroy_process_group()
