"""MVDiffusionPanoramaPipeline: all views of a panorama from text at once (the paper's section 4.1).

Axes: B samples, V views, C latent channels, h w latent, H W image, L text tokens, D text width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor

from mvdiff.diffusion import check_sampler, denoise, guided, step_generators, view_noise
from mvdiff.geometry.cameras import Rig, RingRig
from mvdiff.geometry.panorama import stitch
from mvdiff.models.adapter import MultiViewAdapter
from mvdiff.models.backbone import Backbone, load_backbone
from mvdiff.models.geometry_cache import MultiViewGeometry
from mvdiff.models.multiview_unet import MultiViewUNet
from mvdiff.pipelines.model_folder import (
    BaseReference,
    ModelInfo,
    load_adapter,
    load_scheduler,
    location,
    model_location,
    read_model_info,
    write_model_folder,
)
from mvdiff.pipelines.prompts import expand_prompts
from mvdiff.samples import to_uint8

OUTPUT_TYPES = ("pil", "np", "pt", "uint8", "latent")


@dataclass
class MVDiffusionPanoramaOutput(BaseOutput):
    """What the pipeline returns.

    Attributes:
        images: per output_type: "pil" lists [B][V] of images; "np" [B, V, H, W, 3] and "pt" [B, V, 3, H, W], float in
            [0, 1] as everywhere in diffusers; "uint8" a tensor [B, V, H, W, 3], rounded, as sample folders take it;
            "latent" [B, V, C, h, w].
        panoramas: the stitched views in the same form, [B] of height x 2 height, mid-grey where no view looks;
            None for latents.
        covered: [H, W] bool, where the rig sees the panorama; None for latents.
        seeds: [B] the seed of each sample.
    """

    images: Any
    panoramas: Any
    covered: Tensor | None
    seeds: list[int]


class MVDiffusionPanoramaPipeline(DiffusionPipeline):
    """Generate the views of panoramas with a frozen base, and correspondence-aware attention between the views.

    Args:
        vae: autoencoder of the base.
        text_encoder: of the base.
        tokenizer: of the base.
        unet: of the base.
        adapter: the trained attention blocks.
        scheduler: any diffusers scheduler; replace `pipeline.scheduler` at will.
        rig: default views; the paper's ring of 8 when None.
        prompt_prefix: put before every prompt, as in training.
        base: which base this is, for `save_pretrained`.
    """

    def __init__(
        self,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        unet: Any,
        adapter: MultiViewAdapter,
        scheduler: Any,
        rig: Rig | None = None,
        prompt_prefix: str = "",
        base: BaseReference | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, adapter=adapter, scheduler=scheduler
        )
        self.rig = RingRig() if rig is None else rig
        self.prompt_prefix = prompt_prefix
        self.base = base
        self._multi_view_unet()  # an adapter of another base is an error now, not in the first call

    @classmethod
    def from_backbone(
        cls,
        backbone: Backbone,
        adapter: MultiViewAdapter | None = None,
        rig: Rig | None = None,
        prompt_prefix: str = "",
        base: BaseReference | None = None,
    ) -> MVDiffusionPanoramaPipeline:
        """Make a pipeline of a base that is in memory already; without an adapter, one that changes nothing."""
        adapter = MultiViewAdapter.from_unet(backbone.unet) if adapter is None else adapter
        parts = (backbone.vae, backbone.text_encoder, backbone.tokenizer, backbone.unet)
        return cls(*parts, adapter, backbone.scheduler, rig, prompt_prefix, base)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        base: str | Path | None = None,
        revision: str | None = None,
        vae: str | Path | None = None,
        dtype: torch.dtype | None = None,
        check_base: bool = True,
    ) -> MVDiffusionPanoramaPipeline:
        """Open a model folder together with the base that it names.

        Args:
            pretrained_model_name_or_path: a model folder, of `mvdiff fit`, `mvdiff export` or `save_pretrained`, or
                `mvdiff://toy-caa`, which comes with the package.
            base: where this machine has the base: folder, hub id or packaged name; default: the recorded one.
            revision: of a hub base; default: the recorded one, if the base is.
            vae: where this machine has the autoencoder that stands in for the base's; default: the recorded one.
            dtype: of all weights; default float32.
            check_base: compare the base's weights with those of the training. False is for trying an adapter on a
                finetuned base.

        Raises:
            FileNotFoundError: there is no such model folder, or its base is missing.
            ValueError: the base has other weights than in training, or the folder's weights are another model's.

        Example:
            >>> pipeline = MVDiffusionPanoramaPipeline.from_pretrained("runs/pano/version_0/model")  # doctest: +SKIP
            >>> pipeline("a kitchen").panoramas[0].save("kitchen.png")  # doctest: +SKIP
        """
        folder = model_location(pretrained_model_name_or_path)
        info = read_model_info(folder)
        name = location(folder, info.base.id) if base is None else base
        revision = info.base.revision if revision is None and base is None else revision
        recorded_vae = None if info.base.vae is None else location(folder, info.base.vae)
        try:
            backbone = load_backbone(name, revision, vae=recorded_vae if vae is None else vae)
        except FileNotFoundError as error:
            wanted = info.base.id + (f" (revision {info.base.revision})" if info.base.revision else "")
            raise FileNotFoundError(f"model {folder} needs the base {wanted}: {error}") from error
        expected = info.base.weights_hash
        if check_base and expected is not None and backbone.weights_hash() != expected:
            raise ValueError(
                f"base must be the one that the model was trained on, {info.base.id} with weights {expected}; got "
                f"{name} with weights {backbone.weights_hash()}. Give its folder as base, with the same vae."
            )
        reference = BaseReference(
            str(info.base.id if base is None else base),
            revision,
            backbone.weights_hash(),
            info.base.vae if vae is None else str(vae),
        )
        adapter = load_adapter(folder)
        parts = (backbone.vae, backbone.text_encoder, backbone.tokenizer, backbone.unet)
        pipeline = cls(*parts, adapter, load_scheduler(folder), info.rig, info.prompt_prefix, reference)
        modules = torch.nn.ModuleList(part for part in (*parts, adapter) if isinstance(part, torch.nn.Module))
        modules.requires_grad_(False).eval().to(dtype or torch.float32)
        return pipeline

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write a model folder: adapter, scheduler, rig, prefix and the base's name, never the base's weights.

        Raises:
            ValueError: the pipeline was made without `base`, so nothing says which base it needs.
        """
        if self.base is None:
            raise ValueError(
                "base must be a BaseReference when a pipeline is saved; got None. Give base=BaseReference(id) when "
                "making the pipeline."
            )
        write_model_folder(
            save_directory, self.adapter, self.scheduler, ModelInfo(self.rig, self.prompt_prefix, self.base)
        )

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | Sequence[Sequence[str]],
        rig: Rig | None = None,
        negative_prompt: str | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 9.0,
        seed: int | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        sample_ids: Sequence[str] | None = None,
        prompt_prefix: str | None = None,
        eta: float = 0.0,
        panorama_height: int | None = None,
        output_type: str = "pil",
        callback_on_step_end: Callable[..., dict[str, Any] | None] | None = None,
        caa: bool = True,
        attention_enabled: bool = True,
        neighbour_batch: Sequence[int] | None = None,
    ) -> MVDiffusionPanoramaOutput:
        """Generate panoramas.

        Noise is drawn on the CPU in float32 from (seed, sample id, view) alone: a sample does not depend on its batch.

        Args:
            prompt: one text for all views of one sample; a list of texts, one sample each; or a list of samples,
                each a text for all views or a list of one text per view.
            rig: views to generate; default the model's. Sides must be multiples of the autoencoder's stride.
            negative_prompt: what to steer away from, without prefix; default the empty prompt.
            num_inference_steps: of the scheduler; the paper uses 50 (DDIM).
            guidance_scale: classifier-free guidance, 9 in the paper; 1 or less runs the text alone, at half the cost.
            seed: of all samples; None takes one from `generator` or, without, from torch's global generator.
            generator: in place of a seed, one for all samples or one each; the seeds are drawn from it.
            sample_ids: names of the samples, part of the noise's key; default their places "0", "1", ...
            prompt_prefix: default the model's; "" for prompts that carry it already.
            eta: of DDIM, 0 deterministic .. 1.
            panorama_height: rows of the stitched panoramas; default as dense as the middle of a view.
            output_type: "pil", "np", "pt", "uint8" or "latent", see `MVDiffusionPanoramaOutput`.
            callback_on_step_end: called as (pipeline, step, timestep, {"latents": [B, V, C, h, w]}); may return a dict
                with other latents.
            caa: False runs the plain base, view by view (a control).
            attention_enabled: False switches the attention of CAA off, its feed-forward layers stay (a control).
            neighbour_batch: [B] which sample of the batch lends its views as neighbours (a control); default its own.

        Raises:
            ValueError: an argument does not fit; the text says which.
        """
        rig = self.rig if rig is None else rig
        prompts = expand_prompts(prompt, rig.num_views)
        sample_ids = [str(i) for i in range(len(prompts))] if sample_ids is None else list(map(str, sample_ids))
        self._check_call(rig, prompts, sample_ids, output_type, neighbour_batch)
        check_sampler(self.scheduler, num_inference_steps)
        seeds = _seeds(seed, generator, len(prompts))
        device = self._execution_device
        backbone = self._backbone()

        prefix = self.prompt_prefix if prompt_prefix is None else prompt_prefix
        text = self._encode(backbone, [[prefix + view for view in sample] for sample in prompts])
        negative = self._encode(backbone, [[negative_prompt or ""] * rig.num_views] * len(prompts))
        stride = backbone.vae_stride
        shape = (backbone.latent_channels, rig.height // stride, rig.width // stride)
        keys = list(zip(seeds, sample_ids, strict=True))
        noise = torch.stack([view_noise(*key, num_views=rig.num_views, shape=shape) for key in keys]).to(device)
        geometry = None
        if caa:
            config, num_levels = self.adapter.config, len(self.unet.config.block_out_channels)
            lists = None if config.neighbours is None else tuple(map(tuple, config.neighbours))
            geometry = rig_geometry(rig, stride, num_levels, config.kernel_size, config.min_overlap, lists).to(device)
        unet = self._multi_view_unet()
        lenders = None if neighbour_batch is None else torch.as_tensor(list(neighbour_batch), device=device)

        def predict(latents: Tensor, timesteps: Tensor, encoder_hidden_states: Tensor) -> Tensor:
            passes = range(len(latents) // len(prompts))  # guidance runs the batch twice
            rows = None if lenders is None else torch.cat([lenders + run * len(prompts) for run in passes])
            dtype = self.unet.dtype
            return unet(latents.to(dtype), timesteps, encoder_hidden_states.to(dtype), geometry, neighbour_batch=rows)

        with self.progress_bar(total=num_inference_steps) as progress, self._attention(attention_enabled):

            def callback(index: int, timestep: Tensor, latents: Tensor) -> Tensor | None:
                if (index + 1) % self.scheduler.order == 0:
                    progress.update()
                if callback_on_step_end is None:
                    return None
                return (callback_on_step_end(self, index, timestep, {"latents": latents}) or {}).get("latents")

            latents = denoise(
                guided(predict, text, negative, guidance_scale),
                self.scheduler,
                noise,
                num_inference_steps,
                generators=[step_generators(one, [name])[0] for one, name in keys],
                eta=eta,
                callback=callback,
            )
        return self._output(backbone, latents, rig, panorama_height, output_type, seeds)

    def _output(self, backbone, latents, rig, panorama_height, output_type, seeds) -> MVDiffusionPanoramaOutput:
        if output_type == "latent":
            return MVDiffusionPanoramaOutput(images=latents, panoramas=None, covered=None, seeds=seeds)
        images = torch.stack([backbone.decode_latents(views).float().cpu() for views in latents]).clamp(-1, 1)
        K, R = rig.cameras()
        height = panorama_height or round(math.pi * float(K[:, 0, 0].max()))
        stitched = [stitch(views, K, R, height, 2 * height) for views in images]
        panoramas, covered = torch.stack([panorama for panorama, _ in stitched]), stitched[0][1]
        views, panoramas = (_as_output_type(values, output_type) for values in (images, panoramas))
        return MVDiffusionPanoramaOutput(images=views, panoramas=panoramas, covered=covered, seeds=seeds)

    def _backbone(self) -> Backbone:
        return Backbone(self.vae, self.text_encoder, self.tokenizer, self.unet, self.scheduler)

    def _encode(self, backbone: Backbone, prompts: list[list[str]]) -> Tensor:
        """Embed B x V prompts, each distinct text once, one at a time so that no text depends on the others."""
        embeddings = {text: backbone.encode_prompts([text])[0] for sample in prompts for text in sample}
        return torch.stack([torch.stack([embeddings[text] for text in sample]) for sample in prompts])

    def _multi_view_unet(self) -> MultiViewUNet:
        """Join UNet and adapter, which a fresh module would put into training mode, and leave their mode as it is."""
        training = self.adapter.training
        unet = MultiViewUNet(self.unet, self.adapter)
        self.adapter.train(training)
        return unet

    @contextmanager
    def _attention(self, enabled: bool):
        """Run the adapter in evaluation mode, with or without its attention; afterwards it is as it was."""
        training = self.adapter.training
        self.adapter.eval()
        self.adapter.set_attention_enabled(enabled)
        try:
            yield
        finally:
            self.adapter.set_attention_enabled(True)
            self.adapter.train(training)

    def _check_call(self, rig, prompts, sample_ids, output_type, neighbour_batch) -> None:
        stride, batch = self._backbone().vae_stride, len(prompts)
        for side, pixels in (("height", rig.height), ("width", rig.width)):
            if pixels % stride:
                raise ValueError(
                    f"rig {side} must be a multiple of {stride}, the autoencoder's stride; got {pixels}. "
                    f"Use {pixels - pixels % stride or stride} or {pixels - pixels % stride + stride}."
                )
        if len(sample_ids) != batch:
            raise ValueError(f"sample_ids must be one per sample ({batch}); got {len(sample_ids)}. Name each sample.")
        if output_type not in OUTPUT_TYPES:
            raise ValueError(
                f"output_type must be one of {', '.join(OUTPUT_TYPES)}; got {output_type!r}. Choose one of these."
            )
        if neighbour_batch is not None and not (
            len(neighbour_batch) == batch and all(0 <= i < batch for i in neighbour_batch)
        ):
            raise ValueError(
                f"neighbour_batch must name a sample of the batch ({batch}) for each sample; got "
                f"{list(neighbour_batch)}. Give indices from 0."
            )


@lru_cache(maxsize=4)
def rig_geometry(
    rig: Rig,
    vae_stride: int,
    num_levels: int,
    kernel_size: int,
    min_overlap: float,
    neighbours: tuple[tuple[int, ...], ...] | None = None,
) -> MultiViewGeometry:
    """Compute the correspondences of a rig, on the CPU; kept for the last rigs.

    Args:
        rig: the views.
        vae_stride: pixels per latent cell.
        num_levels: resolutions of the UNet.
        kernel_size: K of the adapter's K x K taps.
        min_overlap: share of the image from which on views are the adapter's neighbours.
        neighbours: the adapter's neighbours of each view, in place of those that overlap.
    """
    sides = rig.height // vae_stride, rig.width // vae_stride
    return MultiViewGeometry.from_cameras(
        *rig.cameras(), *sides, vae_stride, num_levels, neighbours, kernel_size, min_overlap
    )


def _seeds(seed: int | None, generator: Any, count: int) -> list[int]:
    if seed is not None and generator is not None:
        raise ValueError("seed must be left out where generator is given; got both. Give one of them.")
    if seed is not None:
        return [int(seed)] * count
    generators = [generator] if generator is None or isinstance(generator, torch.Generator) else list(generator)
    if len(generators) not in (1, count):
        raise ValueError(
            f"generator must be one or one per sample ({count}); got {len(generators)}. Give a seed instead."
        )
    drawn = []
    for one in generators:
        device = "cpu" if one is None else one.device
        drawn.append(int(torch.randint(2**63 - 1, (), generator=one, device=device)))
    return drawn * (count // len(drawn))


def _as_output_type(images: Tensor, output_type: str) -> Any:
    """Turn images [..., 3, H, W] in [-1, 1] into the form that was asked for."""
    if output_type == "pt":
        return (images + 1) / 2
    channels_last = images.movedim(-3, -1)
    if output_type == "np":
        return ((channels_last + 1) / 2).numpy()
    pixels = to_uint8(channels_last)
    return pixels if output_type == "uint8" else _as_pil(pixels)


def _as_pil(pixels: Tensor) -> Any:
    if pixels.ndim > 3:
        return [_as_pil(one) for one in pixels]
    return Image.fromarray(pixels.contiguous().numpy())
