"""Build untrained bases from configs and a seed: of Stable Diffusion's architecture, and of SANA's in small.

The first has a trained autoencoder, the second all of a trained base but its network.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, SanaTransformer2DModel, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from mvdiff.models.autoencoder import load_autoencoder
from mvdiff.models.backbone import Backbone, check_parts_fit, load_backbone
from mvdiff.models.bases.sana import SanaBase

WORD_END = "</w>"


@dataclass
class FreshBase:
    """Configs of an untrained base.

    Attributes:
        unet: Arguments of `UNet2DConditionModel`; `cross_attention_dim` must equal the text encoder's `hidden_size`.
        text_encoder: Arguments of `CLIPTextConfig`, except `vocab_size` and the special token ids, which follow from
            `words`.
        vae: Folder or hub id of a trained autoencoder, see `load_autoencoder`.
        scheduler: Arguments of `DDIMScheduler`.
        words: Words that get one token each; other words are split into letters. None: the toy world's vocabulary.
    """

    unet: dict[str, Any]
    text_encoder: dict[str, Any]
    vae: str
    scheduler: dict[str, Any] = field(default_factory=dict)
    words: list[str] | None = None

    def build(self, seed: int) -> Backbone:
        """Build the base on the CPU, with float32 weights that depend on `seed` alone.

        Raises:
            ValueError: The parts do not fit each other, see `check_parts_fit`.
        """
        from mvdiff.data.toyworld.captions import vocabulary

        tokenizer = word_tokenizer(self.words or vocabulary(), self.text_encoder.get("max_position_embeddings", 77))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            unet = UNet2DConditionModel(**self.unet)
            markers = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
            text_encoder = CLIPTextModel(CLIPTextConfig(vocab_size=len(tokenizer), **markers, **self.text_encoder))
        scheduler = DDIMScheduler(**self.scheduler)
        backbone = Backbone(load_autoencoder(self.vae), text_encoder, tokenizer, unet, scheduler)
        check_parts_fit(backbone, "the settings of a fresh base")
        return backbone


@dataclass
class FreshTransformer:
    """Config of an untrained SANA transformer between the other parts of a trained base.

    Attributes:
        transformer: Arguments of `SanaTransformer2DModel`; `in_channels` and `out_channels` must be the autoencoder's
            latent channels, and `caption_channels` the text encoder's `hidden_size`.
        parts_from: Folder, hub id or `mvdiff://` name of the base whose autoencoder, text encoder and tokenizer are
            taken.
        scheduler: Arguments of `FlowMatchEulerDiscreteScheduler`.
    """

    transformer: dict[str, Any]
    parts_from: str
    scheduler: dict[str, Any] = field(default_factory=dict)

    def build(self, seed: int) -> SanaBase:
        """Build the base on the CPU, with a float32 transformer that depends on `seed` alone.

        Raises:
            ValueError: The parts do not fit each other, see `SanaBase.check_fit`.
        """
        with torch.random.fork_rng(devices=[]):
            parts = load_backbone(self.parts_from, without_weights=["unet"])
            torch.manual_seed(seed)
            transformer = SanaTransformer2DModel(**self.transformer)
        scheduler = FlowMatchEulerDiscreteScheduler(**self.scheduler)
        base = SanaBase(parts.vae, parts.text_encoder, parts.tokenizer, transformer, scheduler)
        base.check_fit("the settings of a fresh base")
        return base


def word_tokenizer(words: Iterable[str], max_length: int) -> CLIPTokenizer:
    """Make a CLIP tokenizer (byte-level BPE) whose merges join each of `words` into one token.

    Args:
        words: Lower-case words and punctuation marks.
        max_length: Maximum tokens per prompt, including the start and end tokens.

    Example:
        >>> tokenizer = word_tokenizer(["a", "red", "ball"], 8)
        >>> tokenizer.decode(tokenizer("a red ball").input_ids[1:-1])
        'a red ball'
        >>> len(tokenizer("a red ball").input_ids)
        5
    """
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    tokens = letters + [letter + WORD_END for letter in letters]
    merges: list[tuple[str, str]] = []
    for word in sorted(set(words)):
        # Join the pieces that earlier merges leave, from the left. Later merges have lower priority, so earlier words
        # stay whole.
        pieces = _segment(word, merges)
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            tokens.append(pieces[0] + pieces[1])
            pieces = _segment(word, merges)
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    return CLIPTokenizer(vocabulary, merges, model_max_length=max_length)


def _segment(word: str, merges: list[tuple[str, str]]) -> list[str]:
    """Apply byte-pair merges to a word as the tokenizer does, lowest rank first."""
    rank = {pair: i for i, pair in enumerate(merges)}
    pieces = [*word[:-1], word[-1] + WORD_END]
    while True:
        ranked = [(rank[pair], i) for i, pair in enumerate(itertools.pairwise(pieces)) if pair in rank]
        if not ranked:
            return pieces
        _, i = min(ranked)
        pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]
