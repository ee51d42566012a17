"""Feature extractors for FID, KID and Inception Score, each with its name and weight hash.

Axes: N images, D features, C classes.
"""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from mvdiff.eval.feature_cache import Cached
from mvdiff.eval.features import NAME as TOY_NAME
from mvdiff.eval.features import toy_judge
from mvdiff.eval.sample import ScoredSample
from mvdiff.eval.weights import file_hash
from mvdiff.files.refusals import UnsafeFile, plain_refusals, plain_text
from mvdiff.shapes import check_shapes

INCEPTION_NAME = "inception-v3-compat"
INCEPTION_HASH = "6726825d"
INCEPTION_FILES = ("weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth")

UNREADABLE = (
    *(RuntimeError, OSError, ValueError, LookupError, TypeError),
    *(EOFError, AttributeError, ArithmeticError, ImportError, AssertionError, MemoryError),
    *(pickle.UnpicklingError, struct.error),
)
"""Errors raised by loading a file that holds no weights, or the weights of another model."""


@dataclass
class FeatureExtractor(Cached):
    """A feature network with its name and weight hash; see `mvdiff.eval.feature_cache` for its cache.

    Attributes:
        name: Name of the network in results.
        weights_hash: SHA-256 of the weights, in hex.
        num_features: Number of features D.
        run: Function from uint8 images [N, 3, H, W] to features [N, D] and logits [N, C] or None.
        variant: Description of the image preprocessing, for results.
    """

    name: str
    weights_hash: str
    num_features: int
    run: Callable[[Tensor], tuple[Tensor, Tensor | None]]
    variant: str
    _latest: tuple[ScoredSample, tuple[Tensor, Tensor | None]] | None = field(default=None, init=False, repr=False)

    def of_sample(self, sample: ScoredSample, batch_size: int = 32) -> tuple[Tensor, Tensor | None]:
        """Extract the features and logits of a sample's views; metrics that share this extractor share one pass."""
        if self._latest is None or self._latest[0] is not sample:
            self._latest = sample, self._of_views(sample, batch_size)
        return self._latest[1]

    def _of_views(self, sample: ScoredSample, batch_size: int) -> tuple[Tensor, Tensor | None]:
        if self.cache is None or not self.weights_hash:
            return self(sample.images_uint8, batch_size)
        about = {"network": self.name, "weights_hash": self.weights_hash, "variant": self.variant}
        parts = []
        for start in range(0, len(sample.images_uint8), batch_size):
            images = sample.images_uint8[start : start + batch_size]
            keys = sample.pixel_hashes[start : start + batch_size]
            parts.append(self.cache.fetch(about | {"batch": len(keys)}, keys, partial(self._named, images)))
        features = torch.cat([part["features"] for part in parts])
        return features, torch.cat([part["logits"] for part in parts]) if "logits" in parts[0] else None

    def _named(self, images: Tensor) -> dict[str, Tensor]:
        features, logits = self(images, len(images))
        return {"features": features} | ({} if logits is None else {"logits": logits})

    def __call__(self, images_uint8: Tensor, batch_size: int = 32) -> tuple[Tensor, Tensor | None]:
        """Extract features and logits in batches, without gradients.

        Args:
            images_uint8: [N, 3, H, W] uint8, see `mvdiff.samples.to_uint8`.
            batch_size: Images per forward pass.

        Returns:
            Features [N, D] and logits [N, C] on the CPU; logits are None if the network has none.

        Raises:
            ValueError: The images are not uint8 or have a wrong shape.
        """
        check_shapes(images_uint8=(images_uint8, "N 3 H W"))
        if images_uint8.dtype != torch.uint8:
            raise ValueError(f"images_uint8 must be uint8; got {images_uint8.dtype}.")
        with torch.no_grad():
            parts = [self.run(chunk) for chunk in images_uint8.split(batch_size)]
        features = torch.cat([part[0].cpu() for part in parts])
        logits = None if parts[0][1] is None else torch.cat([part[1].cpu() for part in parts])
        return features, logits


def inception_extractor(
    inception_weights: str | Path | None = None,
    inception_hash: str = INCEPTION_HASH,
    device: str | torch.device = "cpu",
) -> FeatureExtractor:
    """Load torch-fidelity's port of FID's Inception network: 2048 pooled features and unbiased logits.

    Images are resized to 299 as in the original FID (TensorFlow 1: bilinear, no antialiasing).

    Args:
        inception_weights: Weight file. None: the file in torch's hub cache, downloaded if absent.
        inception_hash: Required start of the file's SHA-256. Other weights define another metric, so they need their
            own hash.
        device: Device of the network.

    Raises:
        FileNotFoundError: The file does not exist or cannot be downloaded.
        ValueError: The hash does not match, or the file cannot be loaded.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path = _inception_path(inception_weights)
    weights_hash = file_hash(path)
    if not weights_hash.startswith(inception_hash.lower()):
        raise ValueError(
            f"inception_weights must have a SHA-256 that starts with {inception_hash}; got {weights_hash[:16]}, in "
            f"{path}. Download {INCEPTION_FILES[0]} again, or set inception_hash to use this file on purpose."
        )
    try:
        with plain_refusals("inception_weights", path):
            torch.load(path, map_location="cpu", weights_only=True)  # torch-fidelity unpickles: refuse code beforehand
        net = FeatureExtractorInceptionV3(INCEPTION_NAME, ["2048", "logits_unbiased"], str(path)).to(device)
    except UnsafeFile:
        raise
    except UNREADABLE as error:
        raise ValueError(
            f"inception_weights must be a readable state dict of {INCEPTION_NAME}; got {first_line(error)}, in {path}."
        ) from error
    variant = "uint8, TF1 bilinear resize to 299, no antialiasing"
    return FeatureExtractor(INCEPTION_NAME, weights_hash, 2048, lambda images: net(images.to(device)), variant)


def toy_extractor(
    toy_features: str | Path | None = None, head: str = "object", device: str | torch.device = "cpu"
) -> FeatureExtractor:
    """Load the toy feature network.

    Args:
        toy_features: Folder of the network; None: the packaged one.
        head: Head that provides the logits.
        device: Device of the network.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: The folder holds another network, or `head` is unknown.
    """
    net = toy_judge(toy_features, device).net
    if head not in net.labels:
        raise ValueError(f"head must be one of {sorted(net.labels)}; got {head!r}.")

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        out = net(images.to(device))
        return out["features"], out[head]

    return FeatureExtractor(TOY_NAME, net.weights_hash(), net.num_features, run, f"64x64 toy views, head {head!r}")


def _inception_path(weights: str | Path | None) -> Path:
    if weights is not None:
        if not Path(weights).is_file():
            raise FileNotFoundError(_missing_inception(f"the file {weights}, which does not exist"))
        return Path(weights)
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    for name in INCEPTION_FILES:
        if (cache / name).is_file():
            return cache / name
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        raise FileNotFoundError(_missing_inception(f"none in {cache} (no download: offline)"))
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    path = cache / INCEPTION_FILES[0]
    try:
        cache.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), hash_prefix=INCEPTION_HASH, progress=False)
    except (OSError, RuntimeError) as error:
        missing = _missing_inception(f"none in {cache}, and the download failed ({first_line(error)})")
        raise FileNotFoundError(missing) from error
    return path


def _missing_inception(got: str) -> str:
    return (
        f"inception_weights must be the file {INCEPTION_FILES[0]} (also published as {INCEPTION_FILES[1]}); got {got}. "
        "Download it from the GitHub release of torch-fidelity v0.2.0 or pytorch-fid and set inception_weights to its "
        "path."
    )


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, at most 200 characters, or its class name if it has no message."""
    return (plain_text(error) or type(error).__name__).splitlines()[0][:200]
