"""Find prompts that a text encoder reads only in part, because they have more tokens than its context holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any


@dataclass(frozen=True)
class TextContext:
    """Context of a text encoder.

    Attributes:
        length: Largest number of tokens, with those for start and end.
        count: Function from a text to its number of tokens, with those for start and end.
    """

    length: int
    count: Callable[[str], int]

    @classmethod
    def of_tokenizer(cls, tokenizer: Any, length: int | None = None) -> TextContext:
        """Return the context of a transformers tokenizer.

        Args:
            tokenizer: The tokenizer.
            length: Largest number of tokens; None: the tokenizer's own.
        """
        length = tokenizer.model_max_length if length is None else length
        return cls(length, lambda text: len(tokenizer(text, verbose=False).input_ids))

    @classmethod
    def of_open_clip(cls, tokenizer: Any) -> TextContext:
        """Return the context of an open_clip tokenizer."""
        if hasattr(tokenizer, "encode"):
            return cls(tokenizer.context_length, lambda text: len(tokenizer.encode(text)) + 2)
        return cls(tokenizer.context_length, lambda text: len(tokenizer.tokenizer(text).input_ids))

    def cut(self, texts: Iterable[str]) -> dict[str, int]:
        """Return the distinct texts that do not fit, with their numbers of tokens."""
        long = [text for text in dict.fromkeys(texts) if len(text.encode()) > self.length - 2]  # a token has a byte
        counts = {text: self.count(text) for text in long}
        return {text: count for text, count in counts.items() if count > self.length}


@cache
def clip_context() -> TextContext:
    """Return the context of CLIP's text encoder, 77 tokens, with the vocabulary that Stable Diffusion 1 and 2 use."""
    from open_clip.tokenizer import SimpleTokenizer

    return TextContext.of_open_clip(SimpleTokenizer(context_length=77))


def is_empty(text: str) -> bool:
    """Return True for a prompt that says nothing."""
    return not text.strip()


def shortened(text: str, length: int = 60) -> str:
    """Quote a text, or its beginning if it is longer than `length` characters.

    >>> shortened("a red sofa, mint walls", 10)
    "'a red sofa...'"
    """
    return repr(text if len(text) <= length else text[:length] + "...")


def cut_note(cut: Sequence[str], total: int, context_length: int, reader: str) -> str:
    """Say how many of `total` prompts are cut.

    >>> cut_note(["a b c"], 8, 77, "CLIP")
    "1 of 8 prompts is longer than the 77 tokens that CLIP reads, the rest is cut off: 'a b c'"
    """
    verb = "is" if len(cut) == 1 else "are"
    more = f" and {len(cut) - 3} more" if len(cut) > 3 else ""
    return (
        f"{len(cut)} of {total} prompts {verb} longer than the {context_length} tokens that {reader} reads, the rest "
        f"is cut off: {', '.join(map(shortened, cut[:3]))}{more}"
    )
