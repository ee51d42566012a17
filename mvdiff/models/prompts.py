"""Text embeddings of views; the prompt prefix is added only here.

Axes: B samples, V views, L text tokens, D text width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mvdiff.text_context import TextContext, is_empty
from mvdiff.text_states import TextStates, map_states


class PromptEncoder:
    """Embed the prompts of all views of a batch.

    Args:
        encode: Maps N texts to [N, L, D], or to several tensors by name; see `Base.encode_prompts`.
        prefix: Text put before every prompt, but not before negative or missing prompts.
        encode_negative: The same for negative prompts; None: `encode`.
    """

    def __init__(
        self,
        encode: Callable[[list[str]], TextStates],
        prefix: str,
        encode_negative: Callable[[list[str]], TextStates] | None = None,
    ) -> None:
        self.encode = encode
        self.prefix = prefix
        self.encode_negative = encode if encode_negative is None else encode_negative

    def __call__(self, prompts: Sequence[Sequence[str | None]]) -> TextStates:
        """Embed B lists of V prompts as [B, V, L, D]; None stands for the empty prompt, without prefix."""
        texts = [["" if text is None else self.prefix + text for text in sample] for sample in prompts]
        return _by_sample(self.encode, texts)

    def negative(self, prompts: Sequence[Sequence[str]]) -> TextStates:
        """Embed B lists of V negative prompts as [B, V, L, D], without prefix."""
        return _by_sample(self.encode_negative, prompts)


def _by_sample(encode: Callable[[list[str]], TextStates], texts: Sequence[Sequence[str]]) -> TextStates:
    flat = [text for sample in texts for text in sample]
    return map_states(lambda one: one.unflatten(0, (len(texts), -1)), encode(flat))


def text_notes(context: TextContext, prompts: Sequence[str], prefix: str, negative: Sequence[str]) -> dict[str, Any]:
    """Describe, for `sample.json`, texts of one sample that the text encoder reads only in part, and empty prompts.

    Args:
        context: Context of the text encoder.
        prompts: V prompts without prefix.
        prefix: Text put before every prompt.
        negative: Negative prompts, one for all views or one per view.

    Returns:
        `{}` if every prompt says something and is read as a whole. Otherwise some of `context_length`, `num_tokens`
        (of cut prompts, by view, with the prefix), `negative_num_tokens` (of cut negative prompts) and
        `empty_prompts` (views).
    """
    texts = [prefix + prompt for prompt in prompts]
    cut = context.cut([*texts, *negative])
    views = {str(view): cut[text] for view, text in enumerate(texts) if text in cut}
    cut_negative = [cut[text] for text in dict.fromkeys(negative) if text in cut]
    notes = {
        "context_length": context.length if cut else None,
        "num_tokens": views,
        "negative_num_tokens": cut_negative,
        "empty_prompts": [view for view, prompt in enumerate(prompts) if is_empty(prompt)],
    }
    return {name: value for name, value in notes.items() if value}
