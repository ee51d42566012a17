"""Fréchet distance (FID), Inception Score and KID over features of any extractor (see `mvdiff.eval.extractors`).

Plain functions over feature matrices, in float64. The Inception Score is torch-fidelity's. The Fréchet distance is
ours: torch-fidelity's and torchmetrics' take eigenvalues of a product of covariances, which is off by 1e-8 and turns
negative where there are fewer images than features. KID is ours, too: torchmetrics' takes sets of one size only. Where
they apply, all agree (tests/eval/test_distribution.py).

Legend: N, M images, D features, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mvdiff.shapes import check_shapes

PAPER_SPLITS = 10


def frechet_distance(features: Tensor, reference: Tensor) -> float:
    """Compute the Fréchet distance of two Gaussians fitted to features (Heusel et al. 2017, equation 6).

    `|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))` with unbiased covariances. With any roots `A1^T A1 = S1` and
    `A2^T A2 = S2` the last trace is the sum of the singular values of `A1 A2^T` (own derivation), which stays real
    and exact with singular covariances, i.e. fewer images than features.

    Args:
        features: [N, D] features of the generated images.
        reference: [M, D] features of the reference images.

    Returns:
        The distance, at least 0.

    Raises:
        ValueError: Shapes do not fit, or fewer than two images.

    Example:
        >>> x = torch.tensor([[0.0, 0.0], [2.0, 1.0], [4.0, 0.0]])
        >>> round(frechet_distance(x + torch.tensor([3.0, 4.0]), x), 6)
        25.0
    """
    check_shapes(features=(features, "N D"), reference=(reference, "M D"))
    mean_1, root_1 = _mean_and_root(features)
    mean_2, root_2 = _mean_and_root(reference)
    cross = torch.linalg.svdvals(root_1 @ root_2.T).sum()
    distance = (mean_1 - mean_2).square().sum() + root_1.square().sum() + root_2.square().sum() - 2 * cross
    return max(0.0, float(distance))


def _mean_and_root(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean [D] and a root A [min(N, D), D] of the unbiased covariance, `A^T A = S`, in float64."""
    num_images, num_features = features.shape
    if num_images < 2:
        raise ValueError(f"features must come from at least 2 images; got {num_images}. Score more samples.")
    features = features.double()
    mean = features.mean(dim=0)
    root = (features - mean) / (num_images - 1) ** 0.5
    if num_images > num_features:
        values, vectors = torch.linalg.eigh(root.T @ root)
        root = values.clamp(min=0).sqrt()[:, None] * vectors.T
    return mean, root


def inception_score(logits: Tensor, num_splits: int = PAPER_SPLITS, seed: int = 0) -> tuple[float, float]:
    """Compute the Inception Score, `exp(E KL(p(y|x) || p(y)))`, over splits (Salimans et al. 2016, section 4).

    The images are put in a seeded order first, so that views of one panorama do not share a split and re-runs give
    the same number.

    Args:
        logits: [N, C] class logits.
        num_splits: Number of splits S; split k holds images `k N // S` to `(k + 1) N // S`.
        seed: Seed of the order.

    Returns:
        Mean and (population) standard deviation over splits.

    Raises:
        ValueError: Fewer images than splits.
    """
    count = check_shapes(logits=(logits, "N C"))["N"]
    if not 1 <= num_splits <= count:
        raise ValueError(
            f"num_splits must be between 1 and the number of images ({count}); got {num_splits}. Score more samples."
        )
    from torch_fidelity.metric_isc import isc_features_to_metric

    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    scores = isc_features_to_metric(logits.cpu()[order], splits=num_splits, shuffle=False)
    return scores["inception_score_mean"], scores["inception_score_std"]


def kernel_distance(features: Tensor, reference: Tensor) -> float:
    """Compute KID, the unbiased squared MMD with the kernel `(x y / D + 1)^3` (Binkowski et al. 2018), of all images.

    The usual mean over random subsets estimates the same number with more noise.

    Args:
        features: [N, D] features of the generated images.
        reference: [M, D] features of the reference images.

    Raises:
        ValueError: Shapes do not fit, or fewer than two images.
    """
    sizes = check_shapes(features=(features, "N D"), reference=(reference, "M D"))
    if min(sizes["N"], sizes["M"]) < 2:
        raise ValueError(f"features must come from at least 2 images; got {sizes['N']} and {sizes['M']}.")
    own, real = features.double(), reference.double()

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / sizes["D"] + 1) ** 3

    def mean_of_others(a: Tensor) -> Tensor:
        values = kernel(a, a)
        return (values.sum() - values.diagonal().sum()) / (len(a) * (len(a) - 1))

    return float(mean_of_others(own) + mean_of_others(real) - 2 * kernel(own, real).mean())
