"""The embedded defaults: toy data, training, samples, scores and a report in minutes on two cores.

`run.run_quickstart` is the whole job for panoramas, `depth.run.run_depth_quickstart` that of the depth task; each step
is made of the parts a user calls (`mvdiff fit`, the pipelines, the metrics, the report), never of code of its own for
them.
"""
