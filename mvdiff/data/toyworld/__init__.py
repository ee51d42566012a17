"""A small procedural world of furnished rooms, ray-traced analytically: exact colour, depth, pose and captions.

It gives the project data that anyone can make in a minute, ground truth that is exact (correspondences, occlusion,
captions), and the pictures on which the packaged toy base was trained.
"""

from mvdiff.data.toyworld.write import write_toyworld

__all__ = ["write_toyworld"]
