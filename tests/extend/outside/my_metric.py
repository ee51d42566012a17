"""Brightness of samples."""

from mvdiff.eval.metric import Column, PerSampleMetric


class Brightness(PerSampleMetric):
    """Mean grey of all views, times `scale`."""

    name = "brightness"
    columns = (Column("brightness", "mean brightness", "share", higher_is_better=True, digits=3),)
    model, variant = "mean grey", "mean over pixels, then samples"

    def __init__(self, *, scale=1.0, **options):
        super().__init__(**options)
        self.scale = scale

    def measure(self, sample):
        return {"brightness": self.scale * float(sample.images_uint8.double().mean()) / 255}
