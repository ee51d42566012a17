"""Base of the families whose network is a transformer of diffusers: sites behind every k-th block.

Axes: N views, T image tokens (row-major), C channels, L text tokens, D text width.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers.hooks._helpers import TransformerBlockRegistry
from torch import Tensor, nn

from mvdiff.files.writing import whole_folder
from mvdiff.models.adapter import MultiViewAdapter
from mvdiff.models.bases.base import Base, Site
from mvdiff.models.loading import forget_source
from mvdiff.models.multiview_transformer import MultiViewTransformer
from mvdiff.samples import write_json

NUM_PLACES = 7
"""About how many places a fresh adapter gets, unless `adapter.every` says another number."""


class TransformerBase(Base):
    """Base of transformer families.

    A derived class names the list of blocks. Where its blocks return several tensors and diffusers does not know them,
    it also says which one holds the image tokens (`output_index`).
    """

    blocks: ClassVar[str] = "transformer_blocks"
    """Name of the network's list of blocks."""
    first_image_token: ClassVar[int] = 0
    """Place of the first image token in the sequence that a block returns."""

    @property
    def patch_size(self) -> int:
        """Latent cells per token along each side."""
        return self.unet.config.patch_size

    @property
    def size_multiple(self) -> int:
        """Number of pixels of which height and width must be multiples: a whole number of tokens."""
        return self.vae_stride * self.patch_size

    @property
    def width(self) -> int:
        """Channels of the hidden states."""
        return self.unet.config.num_attention_heads * self.unet.config.attention_head_dim

    def sites(self) -> list[Site]:
        """Return one site behind each block."""
        count = len(self.unet.get_submodule(self.blocks))
        return [Site(f"{self.blocks}.{i}", self.width, self.patch_size) for i in range(count)]

    def new_adapter(self, attention: Mapping[str, Any] | None = None, **settings: Any) -> MultiViewAdapter:
        """Make a fresh adapter behind every k-th block, k = `every`; default: for about seven places."""
        every = settings.pop("every", None)
        sites = self.sites()
        every = max(1, round(len(sites) / NUM_PLACES)) if every is None else every
        if isinstance(every, bool) or not isinstance(every, int) or not 1 <= every <= len(sites):
            raise ValueError(f"adapter.every must be from 1 to {len(sites)}, the number of blocks; got {every!r}.")
        for name in ("mid_place", "image_condition"):
            if settings.pop(name, None):
                raise ValueError(f"adapter.{name} must be left out for a transformer, which has no mid block.")
        chosen = sites[every - 1 :: every]
        places = {
            "after": [site.after for site in chosen],
            "channels": [site.channels for site in chosen],
            "cell": self.patch_size,
        }
        return MultiViewAdapter(attention=attention, sites=places, latent_channels=self.latent_channels, **settings)

    def multi_view(self, adapter: MultiViewAdapter) -> MultiViewTransformer:
        """Combine the transformer with an adapter; see `Base.multi_view`."""
        own = {site.after: (site.channels, site.cell) for site in self.sites()}
        sites = adapter.config.sites or {"after": [], "channels": [], "cell": None}
        for name, channels in zip(sites["after"], sites["channels"], strict=True):
            if (found := own.get(name)) != (channels, sites["cell"]):
                raise ValueError(
                    f"adapter.config.sites must be places of the {type(self.unet).__name__}; got {name} with "
                    f"{channels} channels and cells of {sites['cell']}, where the network has {found}. The adapter "
                    "belongs to another model."
                )
        return MultiViewTransformer(self, adapter)

    def image_tokens(self, output: Any, num_tokens: int) -> Tensor:
        """Return the image tokens [N, T, C] of a block's output."""
        index = self.output_index()
        states = output if index is None else output[index]
        return states[:, self.first_image_token : self.first_image_token + num_tokens]

    def with_image_tokens(self, output: Any, tokens: Tensor) -> Any:
        """Return a block's output with other image tokens [N, T, C]; text tokens stay."""
        index = self.output_index()
        states = output if index is None else output[index]
        before, rest = self.first_image_token, self.first_image_token + tokens.shape[1]
        if before or rest < states.shape[1]:
            tokens = torch.cat([states[:, :before], tokens, states[:, rest:]], dim=1)
        return tokens if index is None else (*output[:index], tokens, *output[index + 1 :])

    def output_index(self) -> int | None:
        """Return the place of the hidden states in a block's output; None if the output is one tensor."""
        block = type(self.unet.get_submodule(self.blocks)[0])
        known = TransformerBlockRegistry.get(block)
        return None if known.return_encoder_hidden_states_index is None else known.return_hidden_states_index

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write a folder that `load_backbone` can load; for a family outside the package, with its class path.

        Args:
            folder: Output folder.
            dtype: Precision of the written weights; None: unchanged.
        """
        parts = {"transformer": self.unet, "vae": self.vae, "scheduler": self.scheduler}
        parts |= dict(getattr(self.text_encoder, "encoders", {"text_encoder": self.text_encoder}).items())
        parts |= getattr(self.tokenizer, "tokenizers", {"tokenizer": self.tokenizer})
        with whole_folder(Path(folder)) as new:
            for name, part in parts.items():
                written = copy.deepcopy(part).to(dtype) if dtype and isinstance(part, nn.Module) else part
                written.save_pretrained(str(new / name))
            for name in ("transformer", "vae"):
                forget_source(new / name / "config.json")
            index = {name: [type(part).__module__.split(".")[0], type(part).__name__] for name, part in parts.items()}
            write_json(new / "model_index.json", index)


def trimmed(text: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return embeddings of one prompt, `hidden_states` [L, D] and `mask` [L], without padding."""
    mask = text["mask"].bool()
    return {
        "hidden_states": text["hidden_states"][mask],
        "places": mask.nonzero()[:, 0],
        "length": torch.tensor(len(mask)),
    }


def padded(text: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return what `trimmed` got, with zeros for padding, which the network masks."""
    length = int(text["length"])
    mask = torch.zeros(length, dtype=torch.bool)
    mask[text["places"]] = True
    states = text["hidden_states"].new_zeros(length, text["hidden_states"].shape[-1])
    states[text["places"]] = text["hidden_states"]
    return {"hidden_states": states, "mask": mask}
