"""A procedural world of furnished rooms, ray-traced analytically, with exact colour, depth, poses and captions.

It provides data that anyone can generate in a minute, exact ground truth (correspondences, occlusion, captions), and
the training images of the packaged toy base.
"""

from mvdiff.data.toyworld.write import write_toyworld

__all__ = ["write_toyworld"]
