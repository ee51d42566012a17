"""MultiViewPipeline: load, run, save and share a model of any task; subclasses add the `__call__` of each task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import torch

from mvdiff.models.adapter import MultiViewAdapter
from mvdiff.models.backbone import load_backbone
from mvdiff.models.bases.base import Base
from mvdiff.models.bases.stable_diffusion import PARTS
from mvdiff.models.trained_lora import LORA_FILE, LORA_NAME, TrainedLora
from mvdiff.pipelines.base_reference import BaseReference, reference_to
from mvdiff.pipelines.hub import check_repo_id, check_shareable, upload_model_folder
from mvdiff.pipelines.lora import LoraOfBase
from mvdiff.pipelines.model_card import TrainingRecord
from mvdiff.pipelines.model_folder import (
    ModelInfo,
    load_adapter,
    load_lora,
    load_scheduler,
    model_location,
    model_of,
    read_model_info,
    write_model_folder,
)
from mvdiff.pipelines.sampling import SamplingPipeline
from mvdiff.tasks.task import Task


class MultiViewPipeline(LoraOfBase, SamplingPipeline):
    """A frozen base with attention between views, for any task; see `generate`.

    Its subclasses, the faces (`MVDiffusionPanoramaPipeline`, ...), fix the task and have a `__call__` with keyword
    arguments. A face lists all parameters of its `__init__`, since diffusers finds the modules by their names.

    Args:
        vae: Autoencoder of the base.
        text_encoder: Text encoder of the base.
        tokenizer: Tokenizer of the base.
        unet: Network of the base, a UNet or a transformer.
        adapter: Trained adapter.
        scheduler: Any diffusers scheduler; `pipeline.scheduler` may be replaced later.
        task: Task of the model.
        views: Views that the model was trained on, see `ModelInfo`.
        prompt_prefix: Text put before every prompt, as in training.
        base: Reference to the base, required by `save_pretrained`.

    Raises:
        ValueError: The base does not take the task's input, or the adapter belongs to another base.
    """

    training_record: TrainingRecord | None = None
    """Record of the adapter's training, for the model card; read from the model folder."""
    trained_lora: TrainedLora | None = None
    """LoRA of the base that was trained beside the adapter; loaded as the LoRA "trained", and saved with the model."""

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
            raise ValueError("task must be a Task for a MultiViewPipeline; got None.")
        self.register_modules(
            vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, adapter=adapter, scheduler=scheduler
        )
        self.task = task
        self.views = dict(views or {})
        self.prompt_prefix = prompt_prefix
        self.base = base
        task.check_base(unet, vae.config.latent_channels)
        task.check_adapter(adapter)
        self._multi_view_unet()  # reject an adapter of another base now, not in the first call

    @classmethod
    def face_task(cls) -> Task | None:
        """Return the task of a face; None for `MultiViewPipeline` itself."""
        return None

    @property
    def model_info(self) -> ModelInfo:
        """Content of the model's `mvdiff.json`; requires `base`."""
        return ModelInfo(self.task, self.views, self.prompt_prefix, self.base, self.training_record)

    @classmethod
    def from_backbone(
        cls,
        backbone: Base,
        adapter: MultiViewAdapter | None = None,
        *,
        task: Task | None = None,
        views: Mapping[str, Any] | None = None,
        prompt_prefix: str = "",
        base: BaseReference | None = None,
        **face_views: Any,
    ) -> Self:
        """Make a pipeline from a base that is already in memory.

        Args:
            backbone: Base, with the scheduler to sample with.
            adapter: Trained adapter; default: a fresh one, which does not change the base's output.
            task: Task of the model; not needed by a face.
            views: See `ModelInfo`.
            prompt_prefix: See `MultiViewPipeline`.
            base: See `MultiViewPipeline`.
            **face_views: Entries of `views` by name, as in a face's `__init__`.
        """
        own = cls.face_task()
        task = own or task
        if adapter is None:
            adapter = backbone.new_adapter(**({} if task is None else task.adapter.chosen()))
        parts = {name: getattr(backbone, name) for name in PARTS}
        views = dict(views or {}) | face_views
        described = views if own is not None else {"task": task, "views": views}
        pipeline = cls.__new__(cls)
        pipeline._opened = backbone.with_parts(**dict.fromkeys(PARTS))  # __init__ asks the family
        pipeline.__init__(**parts, adapter=adapter, prompt_prefix=prompt_prefix, base=base, **described)
        return pipeline

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
        """Load a model folder and the base that it refers to.

        Args:
            pretrained_model_name_or_path: Model folder written by `mvdiff fit`, `mvdiff export` or `save_pretrained`;
                hub id "owner/name" of one; or a packaged model such as `mvdiff://toy-caa`.
            revision: Branch, tag or commit of a hub model.
            base: Folder, hub id or packaged name of the base; default: the recorded one.
            base_revision: Branch, tag or commit of a hub base; default: the recorded one, unless `base` is set.
            vae: Folder or hub id of an autoencoder to use in place of the base's; default: the recorded one.
            dtype: Precision of all weights; default: float32, with the text encoder in the model's `text_dtype`.
            check_base: Check that the base has the same weights as in training. Set it to False to try an adapter on a
                finetuned base.
            torch_dtype: Name of `dtype` in older diffusers.

        Raises:
            FileNotFoundError: The model or its base is neither local nor on the hub.
            ValueError: The model is for another task, the base has other weights than in training, or the folder's
                weights belong to another model.

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
                f"model must be {model_of(own.name)}; got {model_of(info.task.name)}, in {folder}. "
                f"Choose another model, or run `{info.task.command()}`."
            )
        name = info.base.id if base is None else base
        base_revision = info.base.revision if base_revision is None and base is None else base_revision
        try:
            own_vae = info.base.vae if vae is None else vae
            backbone = load_backbone(name, base_revision, vae=own_vae, family=info.base.family)
        except FileNotFoundError as error:
            recorded = info.base.id + (f" (revision {info.base.revision})" if info.base.revision else "")
            raise FileNotFoundError(f"model {folder} needs the base {recorded}: {error}") from error
        expected = info.base.weights_hash
        if check_base and expected is not None and backbone.weights_hash() != expected:
            raise ValueError(
                f"base must be the one that the model was trained on, {info.base.id} with weights hash {expected}; got "
                f"{name} with {backbone.weights_hash()}. Pass the folder of the right base as `base`, with the same "
                "`vae`."
            )
        vae_name = info.base.vae if vae is None else str(vae)
        reference = reference_to(backbone, str(name), base_revision, vae_name, info.base.text_dtype)
        backbone.scheduler = load_scheduler(folder)
        described = {"task": info.task, "views": info.views, "prompt_prefix": info.prompt_prefix}
        pipeline = cls.from_backbone(backbone, load_adapter(folder), **described, base=reference)
        pipeline.trained_lora = load_lora(folder)
        if pipeline.trained_lora is not None:
            pipeline.load_lora_weights(folder / "lora", adapter_name=LORA_NAME, weight_name=LORA_FILE)
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
        """Write a model folder: adapter, trained LoRA, scheduler, views, prompt prefix, card and reference to the base.

        The weights of the base are not written.

        Args:
            save_directory: Output folder.
            push_to_hub: Also upload the folder; for the arguments that follow see `upload_model_folder`.
            repo_id: "owner/name"; default: the folder's name, in the account of the token's owner.

        Raises:
            ValueError: The pipeline has no `base`; or, with `push_to_hub`, the base is a local folder or `repo_id` is
                not a valid name.
            OSError: The folder cannot be written, or the hub cannot be reached.
        """
        if self.base is None:
            raise ValueError("base must be a BaseReference to save a pipeline; got None.")
        info = self.model_info
        repo_id = Path(save_directory).name if repo_id is None else repo_id
        if push_to_hub:
            check_repo_id(repo_id)
            check_shareable(info)
        adapter, weights = self.adapter, self.adapter_weights()
        if any(weight.is_meta for weight in adapter.parameters()):
            adapter = MultiViewAdapter.from_config(adapter.config)
            adapter.load_state_dict(weights, assign=True)
        write_model_folder(save_directory, adapter, self.scheduler, info, self.trained_lora)
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
        """Write a model folder to a temporary place and upload it; see `save_pretrained`."""
        with TemporaryDirectory() as folder:
            self.save_pretrained(Path(folder) / "model", True, repo_id, commit_message, private, token, create_pr)

    def unusual_settings(self) -> dict[str, Any]:
        """Return, for `sample.json`, the active switches that change images: tiling of the autoencoder, and LoRAs."""
        return super().unusual_settings() | self.lora_settings()
