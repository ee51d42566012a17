"""The protocol of a frozen base: encode and decode images, encode prompts, predict, and where views look at each other.

Axes: N images or views, C latent channels, H W image, h w latent, L text tokens, D text width.
"""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from mvdiff.flow import is_flow
from mvdiff.models.adapter import MultiViewAdapter
from mvdiff.models.autoencoder import autoencoder_stride, decode_latents, encode_images
from mvdiff.text_context import TextContext
from mvdiff.text_states import TextStates

_WEIGHTS = ("unet", "text_encoder", "vae")


@dataclass(frozen=True)
class Site:
    """A place of a network where a block that looks across views attaches.

    Attributes:
        after: Name of the network's module whose output the block reads and updates.
        channels: Channels of its hidden states.
        cell: Latent cells per token along each side; pixels are `cell * vae_stride`.
    """

    after: str
    channels: int
    cell: int


class Base(nn.Module, ABC):
    """The parts of a base model as one module; a derived class is one family.

    Args:
        vae: Diffusers autoencoder.
        text_encoder: Text encoder, or `TextEncoders` for a family with several.
        tokenizer: Tokenizer, or `Tokenizers` for a family with several.
        unet: Denoising network, a UNet or a transformer.
        scheduler: Noise schedule that the network was trained with.

    Attributes:
        commit: Commit of the base on the hub; None for a folder.
        vae_commit: Commit of an autoencoder from another repository of the hub; None for others.
    """

    network_class: ClassVar[type[nn.Module]]
    """Class of the network."""
    text_classes: ClassVar[dict[str, tuple[str, ...]]]
    """Folders of the text encoders, and the classes of transformers that each may have, the usual one first."""
    optional_parts: ClassVar[tuple[str, ...]] = ()
    """Folders that a base may lack."""
    index_settings: ClassVar[tuple[str, ...]] = ()
    """Settings, true or false, that model_index.json may have, and the base as attributes of the same names."""
    text_length: ClassVar[int | None] = None
    """Most tokens of a prompt that the text encoder reads; None: as the tokenizer says."""

    def __init__(
        self, vae: nn.Module, text_encoder: nn.Module, tokenizer: Any, unet: nn.Module, scheduler: Any
    ) -> None:
        super().__init__()
        self.vae = vae
        self.text_encoder = text_encoder
        self.tokenizer = tokenizer
        self.unet = unet
        self.scheduler = scheduler
        self.commit: str | None = None
        self.vae_commit: str | None = None
        self._hashes: dict[str, str] = {}

    # What a family defines

    @abstractmethod
    def encode_prompts(self, prompts: list[str]) -> TextStates:
        """Embed N prompts, padded or truncated to one length, in the text encoder's dtype; see `mvdiff.text_states`."""

    @abstractmethod
    def predict(self, sample: Tensor, timesteps: Tensor, text: TextStates) -> Tensor:
        """Run the network on N views by themselves.

        Args:
            sample: [N, channels, h, w] noisy latents, and the task's other input channels.
            timesteps: [N], as the scheduler counts them.
            text: Embeddings of N prompts.

        Returns:
            [N, C, h, w], of the kind that `prediction_type` names.
        """

    @abstractmethod
    def sites(self) -> list[Site]:
        """Return the places where blocks that look across views can attach, in the order in which they run."""

    @abstractmethod
    def new_adapter(self, attention: Mapping[str, Any] | None = None, **settings: Any) -> MultiViewAdapter:
        """Make a fresh adapter, with which `multi_view` computes what the base does for each view.

        Args:
            attention: See `MultiViewAdapter`.
            **settings: Fields of `AdapterSettings`.

        Raises:
            ValueError: A setting does not apply to this family or is out of range.
        """

    @abstractmethod
    def multi_view(self, adapter: MultiViewAdapter) -> Any:
        """Combine the network with an adapter: a `MultiViewUNet` or a module that is called like it.

        Raises:
            ValueError: The adapter belongs to another network.
        """

    def check_fit(self, folder: Any) -> None:
        """Raise ValueError if the parts of the base do not fit each other; `folder` is named in the message."""
        channels = self.unet.config.get("out_channels") or self.unet.config.in_channels
        if channels not in (self.latent_channels, 2 * self.latent_channels):
            raise ValueError(
                "out_channels of the base's network must be the autoencoder's latent channels, "
                f"{self.latent_channels}; got {channels}, in {folder}."
            )

    def encode_negative_prompts(self, prompts: list[str]) -> TextStates:
        """Embed N negative prompts, by default as all prompts."""
        return self.encode_prompts(prompts)

    def text_settings(self, negative: bool) -> str:
        """Return what embeddings, of negative prompts or of others, depend on besides the encoder, for cache keys."""
        return ""

    def to_cache(self, text: TextStates) -> TextStates:
        """Return what a cache keeps of the embeddings of one prompt; `from_cache` restores the rest."""
        return text

    def from_cache(self, text: TextStates) -> TextStates:
        """Return the embeddings of one prompt from what `to_cache` kept."""
        return text

    # What all families have

    @property
    def prediction_type(self) -> str:
        """Kind of prediction of the network: "epsilon", "v_prediction", "sample" or "flow"."""
        return "flow" if is_flow(self.scheduler) else self.scheduler.config.prediction_type

    @property
    def vae_stride(self) -> int:
        """Pixels per latent cell along each side."""
        return autoencoder_stride(self.vae)

    @property
    def size_multiple(self) -> int:
        """Number of pixels of which height and width of an image must be multiples."""
        return self.vae_stride

    @property
    def latent_channels(self) -> int:
        """Number of latent channels."""
        return self.vae.config.latent_channels

    def text_context(self) -> TextContext:
        """Return the context of the text encoder, for warnings about prompts that it reads only in part."""
        return TextContext.of_tokenizer(self.tokenizer, self.text_length)

    def text_device(self) -> torch.device:
        """Return the device of the text encoder's input."""
        device = self.text_encoder.device
        return torch.device("cpu") if device.type == "meta" else device  # offload hooks move the input to the weights

    def with_parts(self, vae: Any, text_encoder: Any, tokenizer: Any, unet: Any, scheduler: Any) -> Self:
        """Return a base of this family and with its settings that has other parts; a part may be None."""
        base = copy.copy(self)
        base._modules, base._hashes = dict(self._modules), {}
        base.vae, base.text_encoder, base.tokenizer = vae, text_encoder, tokenizer
        base.unet, base.scheduler = unet, scheduler
        return base

    def freeze(self) -> Base:
        """Disable gradients and set evaluation mode, in place; return the base."""
        return self.requires_grad_(False).eval()

    def encode_images(self, images: Tensor, generator: torch.Generator | list[torch.Generator] | None = None) -> Tensor:
        """Encode images [N, 3, H, W] in [-1, 1] to scaled latents (see `autoencoder.encode_images`)."""
        return encode_images(self.vae, images, generator)

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Decode scaled latents [N, C, h, w] to images [N, 3, H, W] in [-1, 1]."""
        return decode_latents(self.vae, latents)

    def set_text_dtype(self, dtype: torch.dtype) -> None:
        """Run the text encoder in a precision of its own; the hash stays that of its weights as they were opened."""
        self.weights_hashes(["text_encoder"])
        self.text_encoder.to(dtype)

    def set_dtype(self, dtype: torch.dtype) -> None:
        """Hold network and text encoder in a precision; hashes stay those of the weights as they were opened.

        The autoencoder keeps its own: it runs once per view, and its latents are the target of the loss.
        """
        self.weights_hashes()
        self.unet.to(dtype)
        self.text_encoder.to(dtype)

    def weights_hashes(self, parts: Iterable[str] = _WEIGHTS) -> dict[str, str]:
        """Return a hash of each part's weights: blake2b over names, shapes and float32 values, in name order.

        The hash does not depend on the precision of the weights as long as it represents them exactly. Hashes are
        cached, so call this only when the weights are final.
        """
        for part in parts:
            if part not in self._hashes:
                self._hashes[part] = hash_weights(getattr(self, part))
        return {part: self._hashes[part] for part in parts}

    def weights_hash(self) -> str:
        """Return one hash of the whole base, computed from `weights_hashes`."""
        text = "".join(f"{part}={value};" for part, value in self.weights_hashes().items())
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def hash_weights(module: nn.Module) -> str:
    """Return the hash of a part's weights, see `Base.weights_hashes`."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(module.state_dict().items()):
        values = tensor.detach().cpu()
        values = values.float() if values.is_floating_point() else values
        digest.update(f"{name}{list(values.shape)}".encode())
        digest.update(values.contiguous().numpy())
    return digest.hexdigest()
