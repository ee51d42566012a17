"""From a batch to a model's inputs: latents, text embeddings, correspondences."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from mvdiff.batch import MultiViewBatch
from mvdiff.keyed import keyed_generator
from mvdiff.models.backbone import Backbone
from mvdiff.models.geometry_cache import DEFAULT_MIN_OVERLAP, MultiViewGeometry
from mvdiff.training.cache import TensorCache, cached_text


class MultiViewInputs:
    """Prepare batches for a multi-view UNet.

    Args:
        backbone: The frozen base.
        seed: Seed of the autoencoder's noise and of text dropout.
        kernel_size: K of the K x K taps.
        cache: Disk cache of text embeddings, or None.
        cache_latents: Whether latents are cached, too, by what the images show. A cached latent is drawn once, for all
            epochs.
        min_overlap: Share of the image from which on views are neighbours.
        neighbours: The neighbours of each view, in place of those that overlap.
    """

    def __init__(
        self,
        backbone: Backbone,
        seed: int,
        kernel_size: int,
        cache: TensorCache | None,
        cache_latents: bool,
        min_overlap: float = DEFAULT_MIN_OVERLAP,
        neighbours: Sequence[Sequence[int]] | None = None,
    ) -> None:
        self.backbone = backbone
        self.seed = seed
        self.kernel_size = kernel_size
        self.min_overlap = min_overlap
        self.neighbours = neighbours
        self.cache = cache
        self.cache_latents = cache_latents
        self._geometries: dict[bytes, MultiViewGeometry] = {}

    @property
    def device(self) -> torch.device:
        """Where the base is."""
        return self.backbone.unet.device

    def latent_size(self, batch: MultiViewBatch) -> tuple[int, int]:
        """Return rows and columns of a batch's latents."""
        height, width = batch.images.shape[-2:]
        return -(-height // self.backbone.vae_stride), -(-width // self.backbone.vae_stride)

    def geometry(self, batch: MultiViewBatch) -> MultiViewGeometry | None:
        """Return the correspondences of a batch's cameras, computed once per rig; None for single views.

        Padded views have no cameras: a sample of fewer views may share a batch with one whose first views are its own.

        Raises:
            ValueError: The samples of the batch have different cameras, or other views than `neighbours`.
        """
        if batch.num_views == 1:
            return None
        cameras, valid = torch.cat([batch.K, batch.R], dim=-1).cpu(), batch.view_valid.cpu()
        rig = cameras[valid.long().argmax(dim=0), torch.arange(batch.num_views)]  # each view of a sample that has it
        if not bool((cameras == rig)[valid].all()):
            raise ValueError(
                "samples of a batch must share their cameras; got different ones. Set data.batch_size to 1."
            )
        height, width = self.latent_size(batch)
        key = rig.numpy().tobytes() + f"{height}x{width}".encode()
        if key not in self._geometries:
            with torch.inference_mode(False):  # what validation made, training could not use
                K, R = rig.clone().split(3, dim=-1)
                geometry = MultiViewGeometry.from_cameras(
                    K.contiguous(),
                    R.contiguous(),
                    height,
                    width,
                    self.backbone.vae_stride,
                    num_levels=len(self.backbone.unet.down_blocks),
                    neighbours=self.neighbours,
                    kernel_size=self.kernel_size,
                    min_overlap=self.min_overlap,
                )
                self._geometries[key] = geometry.to(self.device)
        return self._geometries[key]

    @torch.no_grad()
    def latents(self, batch: MultiViewBatch) -> Tensor:
        """Encode a batch's images into [B, V, C, h, w], with noise keyed by (seed, epoch, sample index)."""
        return torch.stack([self._latents(batch, i) for i in range(batch.batch_size)]).to(self.device)

    def _latents(self, batch: MultiViewBatch, i: int) -> Tensor:
        images = batch.images[i]
        if not self.cache_latents:
            return self._encode(images, self.seed, batch.epoch, int(batch.sample_index[i]))
        shown = (self.seed, batch.sample_id[i], f"yaw {float(batch.yaw_deg[i])}", int(batch.mirrored[i]))
        digest = hashlib.blake2b(images.cpu().contiguous().numpy(), digest_size=20).hexdigest()
        keys = (*shown, str(list(images.shape)), digest)
        return self.cache.fetch(lambda: self._encode(images, *shown), "latents", self._encoder(), *keys)

    def _encode(self, images: Tensor, *keys: int | str) -> Tensor:
        return self.backbone.encode_images(images, generator=keyed_generator("latents", *keys))

    @torch.no_grad()
    def text(self, prompts: list[list[str]]) -> Tensor:
        """Encode B x V prompts into [B, V, L, D]."""
        flat = [prompt for sample in prompts for prompt in sample]
        encoder = self._encoder() if self.cache else ""
        embeddings = cached_text(self.cache, encoder, self.backbone.encode_prompts, flat)
        return embeddings.to(self.device).unflatten(0, (len(prompts), -1))

    def _encoder(self) -> str:
        """Name what encodes: the base's weights and the precision they compute in."""
        device = self.device.type
        autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else self.backbone.unet.dtype
        return f"{self.backbone.weights_hash()} {dtype}"

    def with_text_dropout(self, batch: MultiViewBatch, chance: float) -> list[list[str]]:
        """Return a batch's prompts; for a chosen few samples all are empty, keyed by (seed, epoch, sample index)."""
        prompts = []
        for index, sample in zip(batch.sample_index.tolist(), batch.prompts, strict=True):
            generator = keyed_generator("text-dropout", self.seed, batch.epoch, index)
            dropped = float(torch.rand((), generator=generator)) < chance
            prompts.append([""] * len(sample) if dropped else list(sample))
        return prompts
