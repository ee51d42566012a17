"""Geometry for tests of the model: what an attention class builds, without an adapter and its cache."""

from mvdiff.batch import MultiViewBatch
from mvdiff.models.attention import CorrespondenceAwareAttention, Level, MultiViewGeometry


def camera_geometry(
    K, R, height, width, stride, num_levels, kind=CorrespondenceAwareAttention, **settings
) -> MultiViewGeometry:
    """Taps of views that share a centre, K and R [V, 3, 3]; `height` and `width` are those of the latents."""
    batch = MultiViewBatch.from_cameras(K, R, height * stride, width * stride)
    return _built(batch, stride, num_levels, kind, settings)


def depth_geometry(
    K, R, t, depths, stride, num_levels, view_valid=None, kind=CorrespondenceAwareAttention, **settings
) -> MultiViewGeometry:
    """Taps of samples with depth."""
    batch = MultiViewBatch.from_cameras(K, R, *depths.shape[-2:], t, depths, view_valid)
    return _built(batch, stride, num_levels, kind, {"min_overlap": 0.3} | settings)


def _built(batch, stride, num_levels, kind, settings):
    height, width = batch.images.shape[-2:]
    strides = [stride * 2**level for level in range(num_levels)]
    levels = [Level(-(-height // stride), -(-width // stride), stride) for stride in strides]
    return MultiViewGeometry(tuple(kind(32, **settings).build_taps(batch, levels)))
