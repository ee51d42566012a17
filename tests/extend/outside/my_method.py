"""Views of one colour each: the least that a method can know of a view."""

from mvdiff.eval.sources import source_from_config
from mvdiff.methods.method import Method, write_method
from mvdiff.settings import Sampling


class MeanColour(Method):
    """The mean colour of each real view."""

    is_sampled = False  # the seed changes nothing

    def generate(self, batch, sampling, seed):
        means = batch.images.mean(dim=(-2, -1), keepdim=True)
        return means.expand_as(batch.images).cpu()


def run(config, out):
    """Write the method's samples of the test split of a run's data."""
    data = source_from_config([config], "test").data
    return write_method(MeanColour("mean colour"), data.eval_dataloader("test"), out, Sampling(), rig=data.rig)
