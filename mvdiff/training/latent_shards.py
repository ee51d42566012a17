"""Latents and text embeddings of a run as the content of shards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule

from mvdiff.class_paths import allow_plugins_of
from mvdiff.data.keyed_datamodule import MultiViewDataModule
from mvdiff.data.panoramas import PanoramaDataset, PanoramaSource, view_prompts
from mvdiff.data.prepare.shard_views import panoramas_of_run
from mvdiff.data.shards.cuts import Cuts
from mvdiff.data.shards.latents import EMPTY, TEXT, to_bytes
from mvdiff.data.shards.panorama_content import picture_files_of
from mvdiff.data.shards.panoramas import panorama_json
from mvdiff.data.shards.plan import Planned, state_of
from mvdiff.files.paths import expanded_values
from mvdiff.files.text import read_yaml_mapping
from mvdiff.models.bases.stable_diffusion import StableDiffusionBase
from mvdiff.run_files import config_layers
from mvdiff.training.inputs import MultiViewInputs
from mvdiff.training.multi_view import MultiViewModule

_HEADER = 80  # bytes before the values of a tensor


class PanoramaLatents:
    """Latents of the cuts of panoramas, and embeddings of their prompts; see `mvdiff.data.shards.plan.Content`.

    A latent is drawn once, as by `cache.latents` with the same seed.

    Args:
        sources: Reader of each split.
        source: What the panoramas are, for the manifest.
        cuts: The cuts.
        inputs: Encoders of the run.
        dtype: Precision of what is stored.
        autocast: Precision in which the encoders compute, if not their own.
    """

    kind, what = "panoramas", "latents"

    def __init__(
        self,
        sources: Mapping[str, PanoramaSource],
        source: dict[str, Any],
        cuts: Cuts,
        inputs: MultiViewInputs,
        dtype: torch.dtype = torch.float32,
        autocast: torch.dtype | None = None,
    ) -> None:
        self.datasets = {split: PanoramaDataset(panoramas, cuts.rig) for split, panoramas in sources.items()}
        self.source = source | {"panoramas": {split: len(panoramas) for split, panoramas in sources.items()}}
        self.cuts, self.inputs, self.dtype, self.autocast = cuts, inputs, dtype, autocast
        backbone = inputs.backbone
        self.settings: dict[str, Any] = cuts.to_dict() | {
            "dtype": str(dtype).removeprefix("torch."),
            "computed_in": str(autocast or backbone.vae.dtype).removeprefix("torch."),
            "seed": inputs.seed,
            "prompt_prefix": inputs.prompt_prefix,
            "hashes": backbone.weights_hashes(["vae", "text_encoder"]),
        }

    def counts(self) -> dict[str, int]:
        """Return the number of panoramas of each split."""
        return self.source["panoramas"]

    def planned(self, split: str, index: int) -> Planned:
        """Plan a panorama."""
        data = self.datasets[split]
        backbone, rig, each = self.inputs.backbone, self.cuts.rig, self.dtype.itemsize
        cells = rig.height * rig.width // backbone.vae_stride**2
        latents = _HEADER + each * rig.num_views * backbone.latent_channels * cells
        texts = self._texts(data, index)
        width = backbone.tokenizer.model_max_length * backbone.text_encoder.config.hidden_size
        text = panorama_json(data.source.captions(index), texts=texts)
        sizes = {"json": len(text), TEXT: _HEADER + each * len(texts) * width}
        sizes |= {f"{name}.safetensors": latents for name, _, _ in self.cuts}
        return Planned(data.source.sample_id(index), sizes, state_of(picture_files_of(data.source, index), text))

    def _texts(self, data: PanoramaDataset, index: int) -> list[str]:
        """Return the distinct prompts of a panorama's cuts, without the prefix."""
        captions = data.source.captions(index)
        prompts = (view_prompts(captions, self.cuts.rig, yaw, mirrored) for _, yaw, mirrored in self.cuts)
        return list(dict.fromkeys(prompt for of_cut in prompts for prompt in of_cut))

    def members(self, split: str, index: int) -> dict[str, bytes]:
        """Encode the cuts and prompts of a panorama."""
        data = self.datasets[split]
        sample_id, texts = data.source.sample_id(index), self._texts(data, index)
        members = {"json": panorama_json(data.source.captions(index), texts=texts)}
        with self._precision():
            embeddings = torch.stack([self.inputs.embedding(self.inputs.prompt_prefix + text) for text in texts])
            members[TEXT] = to_bytes(embeddings.to(self.dtype))
            for name, yaw, mirrored in self.cuts:
                images = data.cut(index, yaw, mirrored)["images"]
                latents = self.inputs.latents_of_cut(images, sample_id, yaw, mirrored)
                members[f"{name}.safetensors"] = to_bytes(latents.to(self.dtype))
        return members

    def _precision(self) -> torch.autocast:
        device = self.inputs.device.type
        return torch.autocast(device, self.autocast or torch.bfloat16, enabled=self.autocast is not None)

    def files(self) -> dict[str, bytes]:
        """Return the embedding of the empty prompt."""
        with self._precision():
            return {EMPTY: to_bytes(self.inputs.embedding("").to(self.dtype))}


def latent_content(data: MultiViewDataModule, config: str | Path, dtype: str, device: torch.device) -> PanoramaLatents:
    """Return latents and embeddings of a run as the content of shards.

    Args:
        data: Data module of the run; its `yaw` is a list.
        config: YAML file of the run, with a `MultiViewModule`; `trainer.precision` is the encoders', too.
        dtype: Precision of what is stored.
        device: Device of the encoders.

    Raises:
        FileNotFoundError: Data or base do not exist.
        ValueError: The run trains no adapter, its task takes pictures, too, or its yaws are random.
    """
    sources, about, cuts = panoramas_of_run(data)
    model, precision = model_of_run(config, "SOURCE")
    if not isinstance(model, MultiViewModule) or not model.takes_latents:
        task = f"the task {model.task.name}" if isinstance(model, MultiViewModule) else type(model).__name__
        raise ValueError(
            "--what latents needs a MultiViewModule with a task that takes no pictures, such as panorama; got "
            f"{task}, in {config}."
        )
    model.cache = replace(model.cache, encoded_data=False)  # which is what they are made for
    model.configure_model()
    if not isinstance(model.backbone, StableDiffusionBase):
        raise ValueError(f"--what latents needs a base of Stable Diffusion 1 or 2; got {model.base}, in {config}.")
    model.backbone.to(device)
    autocast = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
    return PanoramaLatents(sources, about, cuts, model.inputs, getattr(torch, dtype), autocast)


def model_of_run(config: str | Path, option: str) -> tuple[LightningModule, str]:
    """Build the model of a run, and return it with the precision of its trainer.

    Args:
        config: YAML file of the run, the user's own: the modules that its model names may be imported.
        option: Option that `config` comes from, for error messages.

    Raises:
        ValueError: The model section is missing or invalid.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningModule, "model", fail_untyped=False, required=True)  # as LightningCLI
    parsed, precision = None, "32-true"
    try:
        for path in config_layers([config]):
            values = expanded_values(read_yaml_mapping(path))
            precision = (values.get("trainer") or {}).get("precision", precision)
            if "model" in values:
                allow_plugins_of(values["model"])
                parsed = parser.parse_object({"model": values["model"]}, namespace=parsed)
        if parsed is None:
            raise ValueError("none")
        return parser.instantiate(parsed).model, str(precision)
    except (ArgumentError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{option} must have a valid model section; got {reason}.") from error
