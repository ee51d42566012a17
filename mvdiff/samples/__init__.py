"""Sample folders: the on-disk format that generation writes and evaluation reads.

One folder is one multi-view sample::

    <root>/<sample id>/0.png ... <V-1>.png   the views, in rig order
                       panorama.png          optional, the panorama, stitched or as a method made it, W = 2 H
                       depth/<i>.png         optional, z-depth of each view: uint16 millimetres, 0 = unknown
                       given/<i>.png         optional, given part of each view: RGBA, transparent = generated or unknown
                       sample.json           written last and atomically; its presence marks the sample complete

Folders in the layout of the 2023 release (`<i>.png`, `<i>_natural.png` for the ground truth, `prompt.txt`) can be read
too. They hold no cameras; the reader passes a rig or gets the paper's ring of 8.

Axes: V views, H x W image. `images` are float in [-1, 1], `images_uint8` integers in [0, 255].
"""

from mvdiff.samples.folders import find_samples, is_complete, sample_folder, scan_samples
from mvdiff.samples.photo_sphere import save_panorama
from mvdiff.samples.pixels import from_uint8, to_uint8
from mvdiff.samples.reading import Sample, read_sample
from mvdiff.samples.record import SampleRecord, camera_record
from mvdiff.samples.writing import SampleWriter, check_sample_folder, write_json, write_sample

__all__ = [
    "Sample",
    "SampleRecord",
    "SampleWriter",
    "camera_record",
    "check_sample_folder",
    "find_samples",
    "from_uint8",
    "is_complete",
    "read_sample",
    "sample_folder",
    "save_panorama",
    "scan_samples",
    "to_uint8",
    "write_json",
    "write_sample",
]
