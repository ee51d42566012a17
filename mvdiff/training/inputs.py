"""From a batch to a model's inputs: latents, text embeddings, text dropout."""

import hashlib
from typing import ClassVar

import torch
from torch import Tensor

from mvdiff.batch import MultiViewBatch
from mvdiff.keyed import keyed_generator, keyed_int
from mvdiff.models.backbone import Backbone
from mvdiff.training.cache import TensorCache, cached_text


class BatchInputs:
    """Prepare batches for any UNet of a base: latents and text embeddings, kept on disk where asked for.

    Args:
        backbone: The base; its autoencoder is frozen, and so is its text encoder where `text` is used.
        seed: Seed of the autoencoder's noise and of text dropout.
        cache: Disk cache of text embeddings, or None.
        cache_latents: Whether latents are cached, too, by what the images show. A cached latent is drawn once, for all
            epochs.
    """

    purpose: ClassVar[str]
    """Key of the autoencoder's noise: latents drawn for other purposes are others, also in a cache."""

    def __init__(self, backbone: Backbone, seed: int, cache: TensorCache | None, cache_latents: bool) -> None:
        self.backbone = backbone
        self.seed = seed
        self.cache = cache
        self.cache_latents = cache_latents

    @property
    def device(self) -> torch.device:
        """Where the base is."""
        return self.backbone.unet.device

    @torch.no_grad()
    def latents(self, batch: MultiViewBatch) -> Tensor:
        """Encode a batch's images into [B, V, C, h, w], with noise keyed by (seed, epoch, sample index)."""
        return torch.stack([self._latents(batch, i) for i in range(batch.batch_size)]).to(self.device)

    def _latents(self, batch: MultiViewBatch, i: int) -> Tensor:
        images = batch.images[i]
        if not self.cache_latents:
            return self._encode(images, self.seed, batch.epoch, int(batch.sample_index[i]))
        yaw = "no yaw" if batch.yaw_deg is None else f"yaw {float(batch.yaw_deg[i])}"
        shown = (self.seed, batch.sample_id[i], yaw, 0 if batch.mirrored is None else int(batch.mirrored[i]))
        digest = hashlib.blake2b(images.cpu().contiguous().numpy(), digest_size=20).hexdigest()
        keys = (*shown, str(list(images.shape)), digest)
        return self.cache.fetch(lambda: self._encode(images, *shown), self.purpose, self._encoder("vae"), *keys)

    def _encode(self, images: Tensor, *keys: int | str) -> Tensor:
        return self.backbone.encode_images(images, self._generators(len(images), *keys))

    def _generators(self, num_views: int, *keys: int | str) -> torch.Generator | list[torch.Generator]:
        """Key the autoencoder's noise of one sample."""
        return keyed_generator(self.purpose, *keys)

    @torch.no_grad()
    def text(self, prompts: list[list[str]]) -> Tensor:
        """Encode B x V prompts into [B, V, L, D]."""
        flat = [prompt for sample in prompts for prompt in sample]
        encoder = self._encoder("text_encoder") if self.cache else ""
        embeddings = cached_text(self.cache, encoder, self.backbone.encode_prompts, flat)
        return embeddings.to(self.device).unflatten(0, (len(prompts), -1))

    def _encoder(self, part: str) -> str:
        """Name what encodes: the weights of a part of the base and the precision they compute in."""
        device = self.device.type
        autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else getattr(self.backbone, part).dtype
        return f"{self.backbone.weights_hashes([part])[part]} {dtype}"


class MultiViewInputs(BatchInputs):
    """Prepare batches for a multi-view UNet.

    Args:
        backbone: The frozen base.
        seed: Seed of the autoencoder's noise and of text dropout.
        cache: Disk cache of text embeddings, or None.
        cache_latents: As in `BatchInputs`.
    """

    purpose = "latents"

    def with_text_dropout(self, batch: MultiViewBatch, chance: float) -> list[list[str]]:
        """Return a batch's prompts; for a chosen few samples all are empty, keyed by (seed, epoch, sample index)."""
        prompts = []
        for index, sample in zip(batch.sample_index.tolist(), batch.prompts, strict=True):
            generator = keyed_generator("text-dropout", self.seed, batch.epoch, index)
            dropped = float(torch.rand((), generator=generator)) < chance
            prompts.append([""] * len(sample) if dropped else list(sample))
        return prompts


class SingleViewInputs(BatchInputs):
    """Prepare batches whose views are images of their own: everything is keyed by (seed, epoch, sample index, view)."""

    purpose = "latent"

    def view_keys(self, batch: MultiViewBatch) -> list[int]:
        """Return a key for each of the B x V views: a function of (sample index, view)."""
        return [_view_key(int(index), view) for index in batch.sample_index for view in range(batch.num_views)]

    def _generators(self, num_views: int, *keys: int | str) -> list[torch.Generator]:
        *shared, sample = keys
        return [keyed_generator(self.purpose, *shared, _view_key(sample, view)) for view in range(num_views)]

    def with_text_dropout(self, batch: MultiViewBatch, chance: float) -> list[list[str]]:
        """Return a batch's prompts; those of a chosen few views are empty, keyed by (seed, epoch, sample, view)."""
        prompts = []
        for index, sample in zip(batch.sample_index.tolist(), batch.prompts, strict=True):
            generators = [
                keyed_generator("text", self.seed, batch.epoch, _view_key(index, view)) for view in range(len(sample))
            ]
            dropped = [float(torch.rand((), generator=generator)) < chance for generator in generators]
            prompts.append(["" if drop else prompt for drop, prompt in zip(dropped, sample, strict=True)])
        return prompts


def _view_key(sample: int, view: int) -> int:
    return keyed_int("view", sample, view)
