"""Parts: the models that a method is made of, by place, and how a method opens them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel

from mvdiff.class_paths import resolve_class
from mvdiff.geometry.cameras import RingRig
from mvdiff.models.autoencoder import autoencoder_stride
from mvdiff.models.backbone import load_backbone
from mvdiff.models.controlnet import load_controlnet
from mvdiff.models.loading import is_hub_id
from mvdiff.pipelines.base import MultiViewPipeline
from mvdiff.pipelines.base_reference import reference_to
from mvdiff.pipelines.model_folder import model_location, read_model_info
from mvdiff.tasks.task import Task

NO_ATTENTION = {"class_path": "mvdiff.models.attention.no_attention.NoAttention"}


class WrongPart(ValueError):
    """Raised if a method cannot use a part that was given, or lacks one.

    Args:
        part: Name of the part, a field of `Parts`, which is also its option.
        problem: What is wrong with it, without full stop.
    """

    def __init__(self, part: str, problem: str) -> None:
        super().__init__(f"--{part} {problem}.")
        self.part = part


class MissingPart(WrongPart):
    """Raised if a method needs a part that was not given.

    Args:
        part: See `WrongPart`.
        method: Name of the method.
        needed: Description of the part, such as "an inpainting base".
    """

    def __init__(self, part: str, method: str, needed: str) -> None:
        super().__init__(part, f"must be given: the method {method} needs {needed}")


def check_revision(model: object, revision: str | None) -> None:
    """Raise WrongPart for a revision of a model that is not on the hub."""
    if revision is not None and not (isinstance(model, str | Path) and is_hub_id(model)):
        problem = f"must be left out: it is that of a --model on the hub; got {revision!r}"
        raise WrongPart("revision", problem)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts that a user gave; a method opens those that it needs.

    Attributes:
        model: Model folder, hub id or packaged name; or a pipeline that is open already.
        revision: Branch, tag or commit of a hub model.
        base: Folder, hub id ("owner/name[@revision]") or packaged name of a base.
        vae: Folder or hub id of an autoencoder in place of the base's.
        controlnet: Folder, hub id ("owner/name[@revision]") or packaged name of a ControlNet.
        dtype: Precision of all weights; None: float32.
        prompt_prefix: Text put before every prompt, for methods that run a base without a model; None: no text, or that
            of the model.

    Raises:
        WrongPart: Both a model and a prefix were given, or a revision of a model that is not on the hub.
    """

    model: str | Path | MultiViewPipeline | None = None
    revision: str | None = None
    base: str | Path | None = None
    vae: str | Path | None = None
    controlnet: str | Path | None = None
    dtype: torch.dtype | None = None
    prompt_prefix: str | None = None

    def __post_init__(self) -> None:
        if self.model is not None and self.prompt_prefix is not None:
            problem = f"must be left out with --model, which has its own; got {self.prompt_prefix!r}"
            raise WrongPart("prompt_prefix", problem)
        check_revision(self.model, self.revision)

    def check_used(self, method: str, unused: Iterable[str]) -> None:
        """Raise WrongPart for a part that was given and that a method does not use.

        Args:
            method: Name of the method.
            unused: Fields that the method does not read.
        """
        for part in unused:
            if (value := getattr(self, part)) is not None:
                raise WrongPart(part, f"must be left out: the method {method} does not use it; got {str(value)!r}")

    def open_model(self, method: str, task: Task | None = None) -> MultiViewPipeline:
        """Open the trained model.

        Args:
            method: Name of the method, for error messages.
            task: Task that the model must be of; None: any.

        Raises:
            MissingPart: No model was given.
            WrongPart: A part was given in place of one of a pipeline that is open already.
            ValueError, FileNotFoundError: See `MultiViewPipeline.from_pretrained`.
        """
        if self.model is None:
            raise MissingPart("model", method, "a trained model")
        if isinstance(self.model, MultiViewPipeline):
            self.check_used(method, ("base", "vae"))
            return self.model
        kind = MultiViewPipeline if task is None else resolve_class(task.pipeline, MultiViewPipeline)
        return kind.from_pretrained(self.model, revision=self.revision, base=self.base, vae=self.vae, dtype=self.dtype)

    def open_controlnet(self, method: str) -> ControlNetModel:
        """Open the depth ControlNet.

        Args:
            method: Name of the method, for error messages.

        Raises:
            MissingPart: No ControlNet was given.
            ValueError, FileNotFoundError: See `load_controlnet`.
        """
        if self.controlnet is None:
            raise MissingPart("controlnet", method, "a depth ControlNet that fits its base")
        return load_controlnet(self.controlnet, dtype=self.dtype)

    def open_base(self, method: str, task: Task, needed: str) -> MultiViewPipeline:
        """Open the base alone: a pipeline without attention across views, to call with `Controls(caa=False)`.

        Views and prompt prefix are those of the model, where one was given (only its description is read). Otherwise
        the prefix is `prompt_prefix`, and the views have the size that the base was trained at, on the paper's ring.

        Args:
            method: Name of the method, for error messages.
            task: Task whose input the base takes.
            needed: Description of the base, such as "an inpainting base", for error messages.

        Raises:
            MissingPart: No base was given.
            ValueError, FileNotFoundError: See `load_backbone`; or the base takes another input than that of the task.
        """
        if self.base is None:
            raise MissingPart("base", method, needed)
        views, prefix = self._described()
        backbone = load_backbone(self.base, vae=self.vae, dtype=self.dtype)
        adapter = backbone.new_adapter(attention=NO_ATTENTION)
        torch.nn.ModuleList([adapter]).requires_grad_(False).eval().to(self.dtype or torch.float32)
        if not set(task.view_fields) <= set(views):
            views = default_views(task, base_size(backbone.unet, backbone.vae))
        reference = reference_to(backbone, str(self.base), vae=None if self.vae is None else str(self.vae))
        return MultiViewPipeline.from_backbone(
            backbone,
            adapter,
            task=task,
            views={name: views[name] for name in task.view_fields},
            prompt_prefix=prefix,
            base=reference,
        )

    def _described(self) -> tuple[Mapping[str, Any], str]:
        """Return views and prompt prefix of the model; without a model, no views and the prefix that was given."""
        if self.model is None:
            return {}, self.prompt_prefix or ""
        if isinstance(self.model, MultiViewPipeline):
            return self.model.views, self.model.prompt_prefix
        info = read_model_info(model_location(self.model, self.revision))
        return info.views, info.prompt_prefix


def base_size(unet: Any, vae: Any) -> int:
    """Return the side in pixels of the images that a base was made for, as the config of its UNet says."""
    size = unet.config.sample_size
    return (size if isinstance(size, int) else min(size)) * autoencoder_stride(vae)


def default_views(task: Task, size: int) -> dict[str, Any]:
    """Return the views of a task for a base that was trained on images of `size` pixels: the ring, or square frames."""
    values = {"rig": RingRig(height=size, width=size), "height": size, "width": size}
    return {name: values[name] for name in task.view_fields}
