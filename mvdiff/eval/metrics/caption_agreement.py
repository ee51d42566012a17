"""Caption agreement: share of views, and of labels, for which the toy judge predicts the true labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from mvdiff.eval.features import caption_agreement, toy_judge
from mvdiff.eval.metric import Column, MissingMetricError, Result, SampleMetric, sample_counts, with_reference
from mvdiff.eval.sample import ScoredSample, keyed_sample
from mvdiff.eval.sources import read_truth
from mvdiff.samples.ids import listed_ids


class CaptionAgreement(SampleMetric):
    """Share of views in which every head predicts the true label, and share of labels predicted correctly.

    Args:
        truth: JSON file of true labels, see `read_truth`; None: the labels stored in the samples.
        judge_heads: Heads to judge; None: all.
        **options: See `SampleMetric`.
    """

    name = "caption_agreement"
    columns = (
        Column("caption_agreement", "caption agreement", "share", higher_is_better=True, digits=3),
        Column("label_agreement", "label agreement", "share", higher_is_better=True, digits=3),
    )
    needs: ClassVar = {"truth": "no sample has true labels. Pass truth, or write settings.truth into the samples."}
    load_network = staticmethod(toy_judge)

    def __init__(
        self, *, truth: str | Path | None = None, judge_heads: Sequence[str] | None = None, **options: Any
    ) -> None:
        super().__init__(**options)
        self.truth = read_truth(truth) if truth else {}
        self.judge_heads = judge_heads
        known = self.network.net.labels
        self.heads = list(known if judge_heads is None else judge_heads)
        if not self.heads or not set(self.heads) <= set(known):
            raise ValueError(f"judge_heads must be among {', '.join(known)}; got {self.heads}.")
        self.add_rows("verdicts")  # numbers of correct and of judged labels per head, then of views

    def update(self, sample: ScoredSample, real: bool) -> None:
        """Judge a sample; skip it if it has no truth."""
        truth = self.truth.get(sample.sample_id, sample.truth)
        if truth is not None:
            net = self.network.net
            verdicts = caption_agreement(net, sample.images_uint8, truth, self.batch_size, self.judge_heads)
            counts = [(sum(verdicts[head]), len(verdicts[head])) for head in (*self.heads, "all")]
            self.append("verdicts", sample, real, torch.tensor([counts], dtype=torch.float64).flatten(1))

    def compute(self) -> dict[str, Result | MissingMetricError]:
        """Return both shares; the share of views also holds the share of each head."""
        (keys, own), (real_keys, real) = self._counts(real=False), self._counts(real=True)
        of = "" if self.judge_heads is None else f" (of {', '.join(self.judge_heads)})"
        unknown = self._unknown([*keys, *real_keys])
        heads = ", ".join(self.heads)
        lacking = (
            [f"no view states a true label of every judged head ({heads}).", f"no view states a label of {heads}."]
            if keys
            else [self.needs["truth"]] * 2
        )
        by_view, by_label = (MissingMetricError(" ".join([reason, *unknown])) for reason in lacking)
        views = {key: pair for key, pair in zip(keys, own[:, -1], strict=True) if pair[1]}
        if views:
            pairs = np.array(list(views.values()))
            share = _pooled(pairs)
            per_head = zip(self.heads, own[:, :-1].swapaxes(0, 1), strict=True)
            by_view = Result(
                share,
                variant=f"share of judged views in which every head{of} reads the stated label",
                n={"num_images": int(pairs[:, 1].sum())}
                | sample_counts(views, [key for key, pair in zip(real_keys, real[:, -1], strict=True) if pair[1]]),
                interval=self.interval(_pooled, pairs),
                per_sample={key: float(right / count) for key, (right, count) in views.items()},
                lacks=unknown or None,
                extra={"per_head": {head: _pooled(counts) for head, counts in per_head if counts[:, 1].any()}},
                **self.network_fields,
                **with_reference(share, [_pooled(real[:, -1])] if real[:, -1, 1].any() else []),
            )
        labels = _label_shares(keys, own)
        if labels:
            variant = f"share of stated labels that are read{of}, mean over samples"
            real_labels = _label_shares(real_keys, real)
            fields = {"variant": variant, "lacks": unknown or None, **self.network_fields}
            by_label = self.mean_over_samples(labels, real_labels, **fields)
        return {"caption_agreement": by_view, "label_agreement": by_label}

    def _unknown(self, keys: Sequence[int]) -> list[str]:
        """Name the samples of `truth` that are not among the keys of the samples that were judged."""
        judged = set(keys)
        ids = [name for name in self.truth if keyed_sample(name) not in judged]
        counts = f"{len(ids)} of {len(self.truth)} samples in truth were not scored"
        return [f"{counts}: {listed_ids(ids)}"] if ids else []

    def _counts(self, real: bool) -> tuple[list[int], np.ndarray]:
        """Return the sample keys and [S, heads + 1, 2] numbers of correct and judged labels (last: whole views)."""
        samples = self.rows("verdicts", real).samples
        counts = np.array([row.numpy() for _, row in samples])
        return [key for key, _ in samples], counts.reshape(-1, len(self.heads) + 1, 2)


def _pooled(counts: np.ndarray) -> float:
    right, judged = counts.sum(axis=0)
    return float(right / judged)


def _label_shares(keys: list[int], counts: np.ndarray) -> dict[int, float]:
    """Return each sample's share of correctly predicted labels, by key."""
    totals = zip(keys, counts[:, :-1].sum(axis=1).tolist(), strict=True)
    return {key: right / judged for key, (right, judged) in totals if judged}
