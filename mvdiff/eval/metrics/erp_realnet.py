"""The distances of `erp_fid` with EfficientNet-Lite0 in place of Inception; not FID, and not comparable with it."""

from __future__ import annotations

from mvdiff.eval.metrics.erp_fid import PanoramaFID, panorama_columns
from mvdiff.eval.realnet import realnet_extractor


class PanoramaRealnet(PanoramaFID):
    """Fréchet distances between EfficientNet-Lite0 features of generated and reference panoramas as a whole."""

    name = "erp_realnet"
    columns = panorama_columns("erp_realnet", "EfficientNet distance of panoramas")
    load_network = staticmethod(realnet_extractor)
