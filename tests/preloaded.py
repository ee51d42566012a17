"""What the server of `tests.forked` imports, once for all processes that are forked from it."""

import gc

import mvdiff.cli.train
import mvdiff.data.datamodule
import mvdiff.pipelines.panorama
import mvdiff.training.callbacks
import mvdiff.training.multi_view
import mvdiff.training.single_view  # noqa: F401

gc.freeze()  # forked processes neither look through it nor copy it
