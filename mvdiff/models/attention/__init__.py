"""Attention across views, one class per kind; cameras or depth determine which cells of other views a token attends to.

Every class derives from `ViewAttention` (docs/extend.md); an adapter's config names its class by `class_path`.
"""

from mvdiff.models.attention.all_views import AllViewAttention
from mvdiff.models.attention.base import Level, MultiViewGeometry, Taps, ViewAttention
from mvdiff.models.attention.correspondence import CorrespondenceAwareAttention

__all__ = ["AllViewAttention", "CorrespondenceAwareAttention", "Level", "MultiViewGeometry", "Taps", "ViewAttention"]
