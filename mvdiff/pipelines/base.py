"""MultiViewPipeline: what the pipelines of all tasks share; loading, prompts, the denoising loop, forms of output.

Axes: B samples, V views, C latent channels, h w latent, H W image, L text tokens, D text width.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Self

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from torch import Tensor

from mvdiff.diffusion import denoise, guided
from mvdiff.models.adapter import MultiViewAdapter
from mvdiff.models.backbone import Backbone, load_backbone
from mvdiff.models.multiview_unet import MultiViewUNet
from mvdiff.pipelines.calls import OUTPUT_TYPES
from mvdiff.pipelines.hub import check_repo_id, check_shareable, upload_model_folder
from mvdiff.pipelines.lora import LoraOfBase
from mvdiff.pipelines.model_card import TrainingRecord
from mvdiff.pipelines.model_folder import (
    BaseReference,
    ModelInfo,
    load_adapter,
    load_scheduler,
    location,
    model_location,
    model_of,
    read_model_info,
    write_model_folder,
)
from mvdiff.pipelines.prompts import expand_negative_prompt
from mvdiff.pipelines.switches import MemorySwitches


class MultiViewPipeline(LoraOfBase, MemorySwitches):
    """A frozen base with correspondence-aware attention between views; each task derives its own pipeline.

    A derived class has a `task`, spells out all parameters of its `__init__` (diffusers reads there which of them are
    modules), hands those below to this one, and says what a model folder holds of it in `model_info`.

    Args:
        vae: autoencoder of the base.
        text_encoder: of the base.
        tokenizer: of the base.
        unet: of the base.
        adapter: the trained attention blocks.
        scheduler: any diffusers scheduler; replace `pipeline.scheduler` at will.
        prompt_prefix: put before every prompt, as in training.
        base: which base this is, for `save_pretrained`.
    """

    task: ClassVar[str]
    training_record: TrainingRecord | None = None
    """How the adapter was trained, for the model card; what a model folder says of it comes along."""
    _callback_tensor_inputs: ClassVar[list[str]] = ["latents", "prompt_embeds", "negative_prompt_embeds"]
    adapter_defaults: ClassVar[dict[str, Any]] = {}
    """Settings of a fresh adapter for this task, where they are not the defaults of `MultiViewAdapter`."""

    def __init__(
        self,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        unet: Any,
        adapter: MultiViewAdapter,
        scheduler: Any,
        prompt_prefix: str = "",
        base: BaseReference | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, adapter=adapter, scheduler=scheduler
        )
        self.prompt_prefix = prompt_prefix
        self.base = base
        self._guidance_scale, self._num_timesteps, self._interrupt = 1.0, 0, False
        self.check_base(unet, vae.config.latent_channels)
        self._multi_view_unet()  # an adapter of another base is an error now, not in the first call

    @property
    @abstractmethod
    def model_info(self) -> ModelInfo:
        """What `mvdiff.json` says of this model; `base` is set."""

    @staticmethod
    @abstractmethod
    def check_base(unet: Any, latent_channels: int) -> None:
        """Raise ValueError where a base's UNet does not take the input of this task."""

    @classmethod
    def from_backbone(cls, backbone: Backbone, adapter: MultiViewAdapter | None = None, **settings: Any) -> Self:
        """Make a pipeline of a base that is in memory already.

        Args:
            backbone: the base, and the scheduler to sample with.
            adapter: default a fresh one, which changes nothing.
            **settings: arguments of `__init__` that are no modules, see `ModelInfo.settings`.
        """
        adapter = MultiViewAdapter.from_unet(backbone.unet, **cls.adapter_defaults) if adapter is None else adapter
        parts = {name: getattr(backbone, name) for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")}
        return cls(**parts, adapter=adapter, **settings)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        revision: str | None = None,
        base: str | Path | None = None,
        base_revision: str | None = None,
        vae: str | Path | None = None,
        dtype: torch.dtype | None = None,
        check_base: bool = True,
        torch_dtype: torch.dtype | None = None,
    ) -> Self:
        """Open a model folder together with the base that it names.

        Args:
            pretrained_model_name_or_path: a model folder, of `mvdiff fit`, `mvdiff export` or `save_pretrained`; a hub
                id "owner/name" of one; or one that comes with the package, as `mvdiff://toy-caa`.
            revision: branch, tag or commit of a hub model.
            base: where this machine has the base: folder, hub id or packaged name; default: the recorded one.
            base_revision: of a hub base; default: the recorded one, if the base is.
            vae: where this machine has the autoencoder that stands in for the base's; default: the recorded one.
            dtype: of all weights; default float32.
            check_base: compare the base's weights with those of the training. False is for trying an adapter on a
                finetuned base.
            torch_dtype: what older diffusers call `dtype`.

        Raises:
            FileNotFoundError: there is no such model folder, here or on the hub, or its base is missing.
            ValueError: the model is for another task, the base has other weights than in training, or the folder's
                weights are another model's.

        Example:
            >>> from mvdiff.pipelines.panorama import MVDiffusionPanoramaPipeline
            >>> pipeline = MVDiffusionPanoramaPipeline.from_pretrained("runs/pano/version_0/model")  # doctest: +SKIP
            >>> pipeline("a kitchen").panoramas[0].save("kitchen.png")  # doctest: +SKIP
        """
        if dtype is not None and torch_dtype is not None and dtype != torch_dtype:
            raise ValueError(f"dtype and torch_dtype must be the same; got {dtype} and {torch_dtype}. Give one.")
        folder = model_location(pretrained_model_name_or_path, revision)
        info = read_model_info(folder)
        if info.task != cls.task:
            raise ValueError(
                f"model must be one for the task {cls.task}; got {model_of(info.task)}, in {folder}. "
                f"Give another model, or run `mvdiff generate {info.task}`."
            )
        name = location(folder, info.base.id) if base is None else base
        base_revision = info.base.revision if base_revision is None and base is None else base_revision
        recorded_vae = None if info.base.vae is None else location(folder, info.base.vae)
        try:
            backbone = load_backbone(name, base_revision, vae=recorded_vae if vae is None else vae)
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
            base_revision,
            backbone.weights_hash(),
            info.base.vae if vae is None else str(vae),
        )
        backbone.scheduler = load_scheduler(folder)
        pipeline = cls.from_backbone(backbone, load_adapter(folder), **replace(info, base=reference).settings)
        modules = torch.nn.ModuleList(
            part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)
        )
        modules.requires_grad_(False).eval().to(dtype or torch_dtype or torch.float32)
        pipeline.training_record = info.training
        return pipeline

    def save_pretrained(
        self,
        save_directory: str | Path,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        create_pr: bool = False,
    ) -> None:
        """Write a model folder: adapter, scheduler, views, prefix, model card and the base's name, never its weights.

        Args:
            save_directory: where to.
            push_to_hub: upload it afterwards; the other arguments are for that, see `upload_model_folder`.
            repo_id: "owner/name"; default the folder's name, below the token's owner.
            commit_message: of the upload.
            private: whether a new repository is private.
            token: of the hub.
            create_pr: open a pull request in place of a commit.

        Raises:
            ValueError: the pipeline was made without `base`, so nothing says which base it needs; or, with
                `push_to_hub`, the base is a folder of this machine or `repo_id` no name on the hub.
            OSError: the folder cannot be written, or the hub cannot be reached.
        """
        if self.base is None:
            raise ValueError(
                "base must be a BaseReference when a pipeline is saved; got None. Give base=BaseReference(id) when "
                "making the pipeline."
            )
        info = replace(self.model_info, training=self.training_record)
        repo_id = Path(save_directory).name if repo_id is None else repo_id
        if push_to_hub:
            check_repo_id(repo_id)
            check_shareable(info)
        adapter, weights = self.adapter, self.adapter_weights()
        if any(weight.is_meta for weight in adapter.parameters()):
            adapter = MultiViewAdapter.from_config(adapter.config)
            adapter.load_state_dict(weights, assign=True)
        write_model_folder(save_directory, adapter, self.scheduler, info)
        if push_to_hub:
            upload_model_folder(save_directory, repo_id, commit_message, private, token, create_pr)

    def push_to_hub(
        self,
        repo_id: str,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        create_pr: bool = False,
    ) -> None:
        """Upload the model folder that `save_pretrained` writes, see there."""
        with TemporaryDirectory() as folder:
            self.save_pretrained(Path(folder) / "model", True, repo_id, commit_message, private, token, create_pr)

    @property
    def guidance_scale(self) -> float:
        """Guidance of the running call; a callback may set `_guidance_scale` for the steps to come."""
        return self._guidance_scale

    @property
    def num_timesteps(self) -> int:
        """Denoising steps of the running call."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Whether the running call stops denoising; a callback stops it with `pipeline._interrupt = True`."""
        return self._interrupt

    def _sample(
        self,
        predict: Callable[[Tensor, Tensor, Tensor], Tensor],
        noise: Tensor,
        prompts: list[list[str]],
        negative_prompt: str | Sequence[str] | None,
        prompt_prefix: str | None,
        num_inference_steps: int,
        guidance_scale: float,
        generators: Sequence[torch.Generator],
        eta: float,
        callback_on_step_end: Callable[..., dict[str, Any] | None] | None,
        attention_enabled: bool,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> Tensor:
        """Denoise [B, V, C, h, w] under guidance; `predict` takes (latents, timesteps, text) as of `guided`."""
        handed = self._callback_inputs(callback_on_step_end, callback_on_step_end_tensor_inputs)
        if not math.isfinite(guidance_scale):
            raise ValueError(f"guidance_scale must be a finite number; got {guidance_scale}. 1 is no guidance.")
        backbone = self._backbone()
        prefix = self.prompt_prefix if prompt_prefix is None else prompt_prefix
        negative = expand_negative_prompt(negative_prompt, noise.shape[1])
        tensors = {
            "prompt_embeds": self._encode(backbone, [[prefix + view for view in sample] for sample in prompts]),
            "negative_prompt_embeds": self._encode(backbone, [negative] * len(prompts)),
        }
        self._guidance_scale, self._num_timesteps, self._interrupt = guidance_scale, num_inference_steps, False

        def guided_predict(latents: Tensor, timesteps: Tensor) -> Tensor:
            return guided(predict, *tensors.values(), self.guidance_scale)(latents, timesteps)

        with self.progress_bar(total=num_inference_steps) as progress, self._attention(attention_enabled):

            def callback(index: int, timestep: Tensor, latents: Tensor) -> Tensor | None:
                if (index + 1) % self.scheduler.order == 0:
                    progress.update()
                if callback_on_step_end is None:
                    return None
                known = {"latents": latents, **tensors}
                returned = callback_on_step_end(self, index, timestep, {name: known[name] for name in handed}) or {}
                for name in known.keys() & returned.keys():
                    if returned[name].shape != known[name].shape:
                        raise ValueError(
                            f"callback_on_step_end must return {name} of shape {list(known[name].shape)}; got "
                            f"{list(returned[name].shape)}. Keep all samples and views."
                        )
                tensors.update({name: returned[name] for name in tensors.keys() & returned.keys()})
                return returned.get("latents")

            latents = denoise(
                guided_predict,
                self.scheduler,
                noise,
                num_inference_steps,
                generators=generators,
                eta=eta,
                callback=callback,
                interrupted=lambda: self.interrupt,
            )
        self.maybe_free_model_hooks()  # under CPU offload UNet and adapter make room for the autoencoder
        return latents

    def unusual_settings(self) -> dict[str, Any]:
        """Name, for the record of a sample, what is on and changes images: tiles, the base's LoRAs."""
        return super().unusual_settings() | self.lora_settings()

    def _callback_inputs(self, callback: Any, names: Sequence[str]) -> list[str]:
        if isinstance(callback, PipelineCallback | MultiPipelineCallbacks):
            names = callback.tensor_inputs
        unknown = [name for name in names if name not in self._callback_tensor_inputs]
        if unknown:
            raise ValueError(
                f"callback_on_step_end_tensor_inputs must be of {', '.join(self._callback_tensor_inputs)}; got "
                f"{', '.join(map(repr, unknown))}. Choose of these."
            )
        return list(names)

    def _decode(self, latents: Tensor) -> Tensor:
        """Decode latents [B, V, C, h, w], sample by sample, to images [B, V, 3, H, W] in [-1, 1] on the CPU."""
        backbone = self._backbone()
        images = torch.stack([backbone.decode_latents(views).float().cpu() for views in latents]).clamp(-1, 1)
        self.maybe_free_model_hooks()
        return images

    def _backbone(self) -> Backbone:
        return Backbone(self.vae, self.text_encoder, self.tokenizer, self.unet, self.scheduler)

    def _encode(self, backbone: Backbone, prompts: list[list[str]]) -> Tensor:
        """Embed B x V prompts, each distinct text once, one at a time so that no text depends on the others."""
        device = self._execution_device
        embeddings = {text: backbone.encode_prompts([text])[0].to(device) for sample in prompts for text in sample}
        return torch.stack([torch.stack([embeddings[text] for text in sample]) for sample in prompts])

    def _multi_view_unet(self) -> MultiViewUNet:
        """Join UNet and adapter, which a fresh module would put into training mode, and leave their mode as it is."""
        training = self.adapter.training
        unet = MultiViewUNet(self.unet, self.adapter)
        unet.set_views_per_chunk(self.views_per_chunk)
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

    def _check_size(self, sides: Mapping[str, int], of: str) -> None:
        """Raise ValueError where a side, in pixels, is no multiple of the autoencoder's stride."""
        stride = self._backbone().vae_stride
        for side, pixels in sides.items():
            if pixels % stride:
                raise ValueError(
                    f"{of} {side} must be a multiple of {stride}, the autoencoder's stride; got {pixels}. "
                    f"Use {pixels - pixels % stride or stride} or {pixels - pixels % stride + stride}."
                )

    def _check_call(self, batch: int, sample_ids, output_type, neighbour_batch) -> None:
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
