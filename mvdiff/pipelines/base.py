"""MultiViewPipeline: a model of any task; opening, saving and sharing. Tasks have faces with a call of their own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import torch

from mvdiff.models.adapter import MultiViewAdapter
from mvdiff.models.backbone import Backbone, load_backbone
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
from mvdiff.pipelines.sampling import SamplingPipeline
from mvdiff.tasks.task import Task


class MultiViewPipeline(LoraOfBase, SamplingPipeline):
    """A frozen base with attention between views, for any task; see `generate`.

    The faces (`MVDiffusionPanoramaPipeline`, ...) fix the task and are called with a user's arguments. A face spells
    out all parameters of its `__init__`, where diffusers reads which of them are modules.

    Args:
        vae: Autoencoder of the base.
        text_encoder: Text encoder of the base.
        tokenizer: Tokenizer of the base.
        unet: UNet of the base.
        adapter: The trained blocks.
        scheduler: Any diffusers scheduler; replace `pipeline.scheduler` at will.
        task: What the model does.
        views: The views it was trained on, see `ModelInfo`.
        prompt_prefix: Put before every prompt, as in training.
        base: Name of the base, for `save_pretrained`.

    Raises:
        ValueError: The base does not take the task's input, or the adapter is another base's.
    """

    training_record: TrainingRecord | None = None
    """How the adapter was trained, for the model card; what a model folder says of it comes along."""

    def __init__(
        self,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        unet: Any,
        adapter: MultiViewAdapter,
        scheduler: Any,
        task: Task | None = None,
        views: Mapping[str, Any] | None = None,
        prompt_prefix: str = "",
        base: BaseReference | None = None,
    ) -> None:
        super().__init__()
        if task is None:
            raise ValueError("task must be given to a pipeline of any task; got None.")
        self.register_modules(
            vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, adapter=adapter, scheduler=scheduler
        )
        self.task = task
        self.views = dict(views or {})
        self.prompt_prefix = prompt_prefix
        self.base = base
        task.check_base(unet, vae.config.latent_channels)
        task.check_adapter(adapter)
        self._multi_view_unet()  # an adapter of another base is an error now, not in the first call

    @classmethod
    def face_task(cls) -> Task | None:
        """Return the task of a face; None for a pipeline of any task."""
        return None

    @property
    def model_info(self) -> ModelInfo:
        """What `mvdiff.json` says of this model; `base` is set."""
        return ModelInfo(self.task, self.views, self.prompt_prefix, self.base, self.training_record)

    @classmethod
    def from_backbone(
        cls,
        backbone: Backbone,
        adapter: MultiViewAdapter | None = None,
        *,
        task: Task | None = None,
        views: Mapping[str, Any] | None = None,
        prompt_prefix: str = "",
        base: BaseReference | None = None,
        **face_views: Any,
    ) -> Self:
        """Make a pipeline of a base that is in memory already.

        Args:
            backbone: The base, and the scheduler to sample with.
            adapter: Default a fresh one, which changes nothing.
            task: What the model does; a face knows.
            views: See `ModelInfo`.
            **face_views: The same as `views`, by name, as a face's `__init__` takes them.
        """
        own = cls.face_task()
        task = own or task
        if adapter is None:
            adapter = MultiViewAdapter.from_unet(backbone.unet, **({} if task is None else task.adapter.chosen()))
        parts = {name: getattr(backbone, name) for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")}
        views = dict(views or {}) | face_views
        described = views if own is not None else {"task": task, "views": views}
        return cls(**parts, adapter=adapter, prompt_prefix=prompt_prefix, base=base, **described)

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
            pretrained_model_name_or_path: A model folder, of `mvdiff fit`, `mvdiff export` or `save_pretrained`; a hub
                id "owner/name" of one; or one that comes with the package, as `mvdiff://toy-caa`.
            revision: Branch, tag or commit of a hub model.
            base: Place of the base on this machine: folder, hub id or packaged name; default: the recorded one.
            base_revision: Revision of a hub base; default: the recorded one, if the base is.
            vae: Place of the autoencoder that stands in for the base's; default: the recorded one.
            dtype: Precision of all weights; default float32, and the text encoder in the model's `text_dtype`.
            check_base: Compare the base's weights with those of the training. False is for trying an adapter on a
                finetuned base.
            torch_dtype: Name of `dtype` in older diffusers.

        Raises:
            FileNotFoundError: There is no such model folder, here or on the hub, or its base is missing.
            ValueError: The model is for another task, the base has other weights than in training, or the folder's
                weights are another model's.

        Example:
            >>> from mvdiff.pipelines.panorama import MVDiffusionPanoramaPipeline
            >>> pipeline = MVDiffusionPanoramaPipeline.from_pretrained("runs/pano/version_0/model")  # doctest: +SKIP
            >>> pipeline("a kitchen").panoramas[0].save("kitchen.png")  # doctest: +SKIP
        """
        if dtype is not None and torch_dtype is not None and dtype != torch_dtype:
            raise ValueError(f"dtype and torch_dtype must be the same; got {dtype} and {torch_dtype}.")
        folder = model_location(pretrained_model_name_or_path, revision)
        info = read_model_info(folder)
        own = cls.face_task()
        if own is not None and info.task.spec() != own.spec():
            raise ValueError(
                f"model must be one for the task {own.name}; got {model_of(info.task.name)}, in {folder}. "
                f"Give another model, or run `{info.task.command()}`."
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
            info.base.text_dtype,
        )
        backbone.scheduler = load_scheduler(folder)
        described = {"task": info.task, "views": info.views, "prompt_prefix": info.prompt_prefix}
        pipeline = cls.from_backbone(backbone, load_adapter(folder), **described, base=reference)
        modules = torch.nn.ModuleList(
            part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)
        )
        dtype = dtype or torch_dtype
        modules.requires_grad_(False).eval().to(dtype or torch.float32)
        if dtype is None and info.base.text_dtype is not None:
            pipeline.text_encoder.to(getattr(torch, info.base.text_dtype))
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
            save_directory: The folder.
            push_to_hub: Upload it afterwards; the arguments that follow are those of `upload_model_folder`.
            repo_id: "owner/name"; default the folder's name, below the token's owner.

        Raises:
            ValueError: The pipeline was made without `base`, so nothing says which base it needs; or, with
                `push_to_hub`, the base is a folder of this machine or `repo_id` no name on the hub.
            OSError: The folder cannot be written, or the hub cannot be reached.
        """
        if self.base is None:
            raise ValueError("base must be a BaseReference when a pipeline is saved; got None.")
        info = self.model_info
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

    def unusual_settings(self) -> dict[str, Any]:
        """Name, for the record of a sample, what is on and changes images: tiles, the base's LoRAs."""
        return super().unusual_settings() | self.lora_settings()
