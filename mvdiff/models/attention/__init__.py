"""Attention across views: a class looks at the other views and says, from cameras or depth, where to look.

`ViewAttention` is what a class derives from (docs/extend.md); an adapter's config names one by its `class_path`.
"""

from mvdiff.models.attention.base import Level, MultiViewGeometry, Taps, ViewAttention
from mvdiff.models.attention.correspondence import CorrespondenceAwareAttention

__all__ = ["CorrespondenceAwareAttention", "Level", "MultiViewGeometry", "Taps", "ViewAttention"]
