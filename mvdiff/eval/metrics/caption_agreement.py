"""Caption agreement: how often the toy judge reads in a view what the truth states, by whole views and by labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from mvdiff.eval.bootstrap import bootstrap
from mvdiff.eval.features import ToyJudge, caption_agreement, toy_judge
from mvdiff.eval.metric import Column, MissingMetricError, Result, SampleMetric, with_reference
from mvdiff.eval.sources import ScoredSample, read_truth

ALL = "all"
Counts = Mapping[str, tuple[int, int]]


class CaptionAgreement(SampleMetric):
    """Share of views of which every head reads the stated label, and share of single labels that are read.

    Args:
        network: The judge.
        truth: JSON file of what each view shows, see `read_truth`; None: as noted in the samples.
        judge_heads: Heads of the judge that are asked; None: all.
        batch_size: Images per forward pass.
        **options: See `SampleMetric`.
    """

    name = "caption_agreement"
    columns = (
        Column("caption_agreement", "caption agreement", "share", higher_is_better=True, digits=3),
        Column("label_agreement", "label agreement", "share", higher_is_better=True, digits=3),
    )
    needs: ClassVar = {
        "truth": "no sample has a truth to judge by. Give truth, or write settings.truth into the samples."
    }
    load_network = staticmethod(toy_judge)

    def __init__(
        self,
        *,
        network: ToyJudge,
        truth: str | Path | None = None,
        judge_heads: Sequence[str] | None = None,
        batch_size: int = 32,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.network = network
        self.truth = read_truth(truth) if truth else {}
        self.judge_heads, self.batch_size = judge_heads, batch_size
        self.heads = [*(network.net.labels if judge_heads is None else judge_heads), ALL]
        self.add_rows("verdicts")  # right and judged, of each head and of whole views

    def update(self, sample: ScoredSample, real: bool) -> None:
        """Judge a sample; one without truth is not judged."""
        truth = self.truth.get(sample.sample_id, sample.truth)
        if truth is not None:
            net = self.network.net
            verdicts = caption_agreement(net, sample.images_uint8, truth, self.batch_size, self.judge_heads)
            counts = [(sum(verdicts[head]), len(verdicts[head])) for head in self.heads]
            self.append("verdicts", sample, real, torch.tensor([counts], dtype=torch.float64).flatten(1))

    def compute(self) -> dict[str, Result | MissingMetricError]:
        """Return both shares; by whole views also each head's own."""
        own, real = self._counts(real=False), self._counts(real=True)
        named = {"model": self.network.name, "weights_hash": self.network.weights_hash}
        of = "" if self.judge_heads is None else f" (of {', '.join(self.judge_heads)})"
        shares, labels = _shares(own), _label_shares(own)
        missing = MissingMetricError(self.needs["truth"])
        by_view: Result | MissingMetricError = missing
        if shares.get(ALL) is not None:
            judged = {key: counts[ALL] for key, counts in own.items() if counts[ALL][1]}
            interval = bootstrap(
                lambda drawn: float(drawn[:, 0].sum() / drawn[:, 1].sum()),
                np.array(list(judged.values())),
                num_resamples=self.num_resamples,
                seed=self.seed,
            )
            reference = _shares(real).get(ALL)
            by_view = Result(
                shares[ALL],
                **named,
                variant=f"share of judged views in which every head{of} reads the stated label",
                n={"num_images": sum(count for _, count in judged.values())},
                interval=(interval.low, interval.high),
                per_sample={key: right / count for key, (right, count) in judged.items()},
                extra={"per_head": {head: share for head, share in shares.items() if head != ALL}},
                **with_reference(shares[ALL], [] if reference is None else [reference]),
            )
        variant = f"share of stated labels that are read{of}, mean over samples"
        by_label = self.mean_over_samples(labels, _label_shares(real), variant=variant, **named) if labels else missing
        return {"caption_agreement": by_view, "label_agreement": by_label}

    def _counts(self, real: bool) -> dict[int, Counts]:
        """Return how many verdicts of each head are right, and how many there are, by sample."""
        samples = self.rows("verdicts", real).samples
        return {
            key: {head: (int(r), int(n)) for head, (r, n) in zip(self.heads, row.reshape(-1, 2).tolist(), strict=True)}
            for key, row in samples
        }


def _shares(samples: Mapping[int, Counts]) -> dict[str, float]:
    """Return each head's share of right verdicts, pooled over samples; heads without a verdict are left out."""
    pooled: dict[str, tuple[int, int]] = {}
    for counts in samples.values():
        for head, (right, count) in counts.items():
            before = pooled.get(head, (0, 0))
            pooled[head] = (before[0] + right, before[1] + count)
    return {head: right / count for head, (right, count) in pooled.items() if count}


def _label_shares(samples: Mapping[int, Counts]) -> dict[int, float]:
    """Return each sample's share of labels that are read."""
    totals = {
        key: [sum(numbers) for numbers in zip(*(pair for head, pair in counts.items() if head != ALL), strict=True)]
        for key, counts in samples.items()
    }
    return {key: right / count for key, (right, count) in totals.items() if count}
