"""What the server of `tests.forked` imports, once for all processes that are forked from it."""

import mvdiff.cli.train
import mvdiff.data.datamodule
import mvdiff.pipelines.panorama
import mvdiff.training.callbacks
import mvdiff.training.multi_view
import mvdiff.training.single_view  # noqa: F401
