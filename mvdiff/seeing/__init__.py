"""Results to look at: a page or a video of sample folders and of scores, whoever made them.

Legend: V views, H W image. Pictures are [H, W, 3] uint8 arrays, as `mvdiff.report` takes them.
"""
