"""The embedded default: toy data, training, panoramas, scores and a report in minutes on two cores.

`run.run_quickstart` is the whole job; each step is made of the parts a user calls (`mvdiff fit`, the pipeline, the
metrics, the report), never of code of its own for them.
"""
