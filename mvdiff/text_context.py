"""Find prompts that a text encoder reads only in part, because they have more tokens than its context holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

CLIP_LENGTH = 77
"""Context of CLIP's text encoder in tokens."""
_SHOWN = 3


@dataclass(frozen=True)
class TextContext:
    """Context of a text encoder.

    Attributes:
        length: Largest number of tokens, with those for start and end.
        encode: Function from a text to its tokens, without those for start and end.
        decode: Function from tokens to text.
        num_added: Number of tokens for start and end.
    """

    length: int
    encode: Callable[[str], list[int]]
    decode: Callable[[list[int]], str]
    num_added: int = 2

    @classmethod
    def of_tokenizer(cls, tokenizer: Any, length: int | None = None) -> TextContext:
        """Return the context of a transformers tokenizer.

        Args:
            tokenizer: The tokenizer.
            length: Largest number of tokens; None: the tokenizer's own.
        """

        def encode(text: str) -> list[int]:
            return tokenizer(text, add_special_tokens=False, verbose=False).input_ids

        length = tokenizer.model_max_length if length is None else length
        return cls(length, encode, tokenizer.decode, len(tokenizer("").input_ids))

    @classmethod
    def of_open_clip(cls, tokenizer: Any) -> TextContext:
        """Return the context of an open_clip tokenizer."""
        if hasattr(tokenizer, "encode"):
            return cls(tokenizer.context_length, tokenizer.encode, tokenizer.decode)
        return cls.of_tokenizer(tokenizer.tokenizer, tokenizer.context_length)

    @property
    def num_read(self) -> int:
        """Largest number of tokens that a text may have to be read as a whole."""
        return self.length - self.num_added

    def cut(self, texts: Iterable[str]) -> dict[str, int]:
        """Return the distinct texts that do not fit, with their numbers of tokens, start and end included."""
        long = [text for text in dict.fromkeys(texts) if len(text.encode()) > self.num_read]  # a token has a byte
        counts = {text: len(self.encode(text)) + self.num_added for text in long}
        return {text: count for text, count in counts.items() if count > self.length}

    def read_part(self, text: str) -> str:
        """Return the beginning of a text that the encoder reads, as the tokenizer writes it."""
        return self.decode(self.encode(text)[: self.num_read]).strip()

    def describe_cut(self, texts: Iterable[str], noun: str = "prompt") -> str | None:
        """Say how many of some texts are cut, where, and which become equal; None if none is cut.

        Args:
            texts: Texts, of which each counts once.
            noun: Word for a text.
        """
        texts = list(dict.fromkeys(texts))
        cut = self.cut(texts)
        if not cut:
            return None
        named = [
            f"{shortened(text)} ({count} tokens, read up to {_end(self.read_part(text))})"
            for text, count in list(cut.items())[:_SHOWN]
        ]
        more = [f"{len(cut) - _SHOWN} more"] if len(cut) > _SHOWN else []
        alike = Counter(tuple(self.encode(text)[: self.num_read]) for text in cut)
        equal = sum(count for count in alike.values() if count > 1)
        have = f"{noun}s have" if len(cut) > 1 else f"{noun}{'s' * (len(texts) > 1)} has"
        alike_note = f"; {equal} different {noun}s become equal" if equal else ""
        return (
            f"{len(cut)} of {len(texts)} {have} more tokens than the {self.length} that the text encoder reads, and "
            f"the rest is cut off: {'; '.join(named + more)}{alike_note}"
        )


@cache
def clip_context() -> TextContext:
    """Return the context of CLIP's text encoder, 77 tokens, with the vocabulary of Stable Diffusion 1 and 2."""
    from open_clip.tokenizer import SimpleTokenizer

    return TextContext.of_open_clip(SimpleTokenizer(context_length=CLIP_LENGTH))


def is_empty(text: str) -> bool:
    """Return True for a prompt that says nothing."""
    return not text.strip()


def shortened(text: str, length: int = 60) -> str:
    """Quote a text, or its beginning if it is longer than `length` characters.

    >>> shortened("a red sofa, mint walls", 10)
    "'a red sofa...'"
    """
    return repr(text if len(text) <= length else text[:length] + "...")


def _end(text: str, length: int = 40) -> str:
    return repr(text if len(text) <= length else "..." + text[-length:])
