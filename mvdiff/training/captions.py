"""Count captions that the text encoder reads only in part, and empty ones, as a training meets them."""

from __future__ import annotations

from collections.abc import Iterable

from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from mvdiff.text_context import TextContext, is_empty
from mvdiff.training.callbacks import gather


class CaptionCounter:
    """Count the distinct captions of a training that are cut or empty.

    A warning names the first cut caption at once; `report` gives the counts when every caption has been met.

    Args:
        context: Context of the text encoder.
        prefix: Text put before every caption.
    """

    def __init__(self, context: TextContext, prefix: str) -> None:
        self.context, self.prefix = context, prefix
        self.met: set[str] = set()
        self.is_warned = self.is_reported = False

    def add(self, captions: Iterable[str]) -> None:
        """Meet captions without their prefix."""
        if self.is_reported:
            return
        new = set(captions) - self.met
        if not new:
            return
        self.met |= new
        if not self.is_warned and (line := self.context.describe_cut(self._texts(sorted(new)), "caption")):
            self.is_warned = True
            rank_zero_warn(f"{line}. All captions are counted at the end of the first epoch.")

    def report(self) -> list[str]:
        """Return one line each on cut and on empty captions of all ranks, once; all ranks must call this."""
        if self.is_reported:
            return []
        self.is_reported = True
        met = set().union(*gather(self.met))
        cut = self.context.describe_cut(sorted(self._texts(met)), "caption")
        empty = sum(map(is_empty, met))
        return [line for line in (cut, f"{empty} of {len(met)} captions are empty" if empty else None) if line]

    def _texts(self, captions: Iterable[str]) -> list[str]:
        return [self.prefix + caption for caption in captions]
