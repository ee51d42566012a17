"""Text embeddings of views; the prompt prefix is added only here.

Axes: B samples, V views, L text tokens, D text width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor


class PromptEncoder:
    """Embed the prompts of all views of a batch.

    Args:
        encode: Maps N texts to [N, L, D]; see `Backbone.encode_prompts`.
        prefix: Text put before every prompt, but not before negative or missing prompts.
    """

    def __init__(self, encode: Callable[[list[str]], Tensor], prefix: str) -> None:
        self.encode = encode
        self.prefix = prefix

    def __call__(self, prompts: Sequence[Sequence[str | None]]) -> Tensor:
        """Embed B lists of V prompts as [B, V, L, D]; None stands for the empty prompt, without prefix."""
        return self._embed([["" if text is None else self.prefix + text for text in sample] for sample in prompts])

    def negative(self, prompts: Sequence[Sequence[str]]) -> Tensor:
        """Embed B lists of V negative prompts as [B, V, L, D], without prefix."""
        return self._embed(prompts)

    def _embed(self, texts: Sequence[Sequence[str]]) -> Tensor:
        flat = [text for sample in texts for text in sample]
        return self.encode(flat).unflatten(0, (len(texts), -1))
