"""Sample folders: the on-disk contract between generating and scoring.

One folder is one multi-view sample::

    <root>/<sample id>/0.png ... <V-1>.png   the views of the rig, in its order
                       panorama.png          optional, the stitched panorama
                       depth/<i>.png         optional, z-depth of each view: uint16 millimetres, 0 = none
                       given/<i>.png         optional, what was given of each view: RGBA, transparent = generated
                       sample.json           written last and atomically: its presence marks the folder complete

Folders in upstream's layout (`<i>.png`, `<i>_natural.png` for the ground truth, `prompt.txt`) are read as well;
they carry no cameras, so a rig is assumed (the paper's ring of 8) or given.

Legend: V views, H W image. `images` are float in [-1, 1], `images_uint8` integers in [0, 255].
"""

from mvdiff.samples.folders import find_samples, is_complete, sample_folder, scan_samples
from mvdiff.samples.pixels import from_uint8, to_uint8
from mvdiff.samples.reading import Sample, read_sample
from mvdiff.samples.record import SampleRecord, camera_record
from mvdiff.samples.writing import SampleWriter, write_json, write_sample

__all__ = [
    "Sample",
    "SampleRecord",
    "SampleWriter",
    "camera_record",
    "find_samples",
    "from_uint8",
    "is_complete",
    "read_sample",
    "sample_folder",
    "scan_samples",
    "to_uint8",
    "write_json",
    "write_sample",
]
