"""Text embeddings of views. The prompt prefix is added here and nowhere else.

Axes: B samples, V views, L text tokens, D text width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor


class PromptEncoder:
    """Embed prompts of views.

    Args:
        encode: N texts -> [N, L, D]; see `Backbone.encode_prompts`.
        prefix: Put before every prompt of a view.
    """

    def __init__(self, encode: Callable[[list[str]], Tensor], prefix: str) -> None:
        self.encode = encode
        self.prefix = prefix

    def __call__(self, prompts: Sequence[Sequence[str | None]]) -> Tensor:
        """Embed B lists of V prompts with the prefix; None is the empty prompt, which has no prefix: [B, V, L, D]."""
        return self._embed([["" if text is None else self.prefix + text for text in sample] for sample in prompts])

    def negative(self, prompts: Sequence[Sequence[str]]) -> Tensor:
        """Embed B lists of V negative prompts, which have no prefix: [B, V, L, D]."""
        return self._embed(prompts)

    def _embed(self, texts: Sequence[Sequence[str]]) -> Tensor:
        flat = [text for sample in texts for text in sample]
        return self.encode(flat).unflatten(0, (len(texts), -1))
