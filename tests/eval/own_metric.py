"""A metric as a user writes it: outside the package, taken by its class path."""

from mvdiff.eval.metric import Column, PerSampleMetric


class Brightness(PerSampleMetric):
    name = "brightness"
    columns = (Column("brightness", "brightness", "share", higher_is_better=True, digits=3),)
    model = "mean grey"
    variant = "mean over pixels, then samples"

    def __init__(self, *, scale=1.0, **options):
        super().__init__(**options)
        self.scale = scale

    def measure(self, sample):
        return {"brightness": self.scale * float(sample.images_uint8.double().mean()) / 255}
