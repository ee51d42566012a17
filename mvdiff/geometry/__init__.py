"""Geometry of views: cameras, correspondences by homography or by depth, panoramas. Pure functions of tensors.

The conventions, stated here once and drawn in `docs/conventions.md`:

1. Camera axes are OpenCV's: x right, y down, z forward. The world has the axes of the camera at yaw 0, pitch 0; it is
   right-handed.
2. `R` is world-from-camera: `x_world = R @ x_camera`; poses add `t`, the camera's centre in metres. Depth is
   z-depth in metres, 0 where there is none. Names of composed transforms name both frames, read from right to left:
   `pixel_target_from_pixel_source`.
3. `R = R_y(yaw) R_x(pitch)`. Yaw is positive to the right, pitch is positive upwards. Angles are degrees in the API
   (`_deg`), radians inside.
4. Pixel (x, y): whole numbers are pixel centres, an image spans [-0.5, W - 0.5] x [-0.5, H - 0.5], its middle is
   cx = (W - 1)/2, cy = (H - 1)/2, and f = W / (2 tan(FoV/2)) with the horizontal field of view. Resizing by s maps x to
   s (x + 0.5) - 0.5.
5. Cell i of a map with stride s has its centre at pixel s*i + (s - 1)/2. Half pixels live in `sampling.py` alone.
6. Equirectangular images: the middle is yaw 0, yaw grows to the right, the top row is nearest to pitch +90, columns and
   rows stand at half pixels: yaw = (x + 0.5)/W * 360 - 180, pitch = 90 - (y + 0.5)/H * 180; W = 2H.
7. Skyboxes: six faces of 90 degrees: 0 up, 1 yaw 270, 2 yaw 0, 3 yaw 90, 4 yaw 180, 5 down. The up and down cameras are
   yawed to 270 before they pitch by +90 and -90: the up face's bottom edge and the down face's top edge meet the
   face at yaw 270.
8. A projection returns `visible`: in front of the camera and inside the image; where depths are known also not
   occluded. Invisible coordinates are finite.
9. (x, y) stands in the last axis; (row, column) is for array indices alone. Geometry is computed in float64 where it
   decides which pixel is meant, and never under autocast or TF32.
10. `known` is 1 where a pixel is given, 0 where it is to be generated. The mask of inpainting UNets says the
    opposite; it is made of `known`, and so inverted, in `mvdiff.models.inpainting` alone. What tells the depth
    model its given frames (`mvdiff.models.conditioning`) is 1 on them, as `known` is.
"""

from mvdiff.geometry.cameras import (
    Rig,
    RingAndPolesRig,
    RingRig,
    intrinsics_from_fov,
    resize_intrinsics,
    rotation_from_yaw_pitch,
)
from mvdiff.geometry.correspondence import (
    TapGeometry,
    apply_homography,
    homography,
    neighbour_table,
    overlapping_neighbours,
    tap_geometry,
)
from mvdiff.geometry.depth import (
    DEFAULT_DEPTH_TOLERANCE,
    DepthTolerance,
    depth_correspondence,
    project_points,
    unproject,
)
from mvdiff.geometry.depth_overlap import overlap_matrix, overlap_neighbours
from mvdiff.geometry.depth_taps import depth_tap_geometry
from mvdiff.geometry.panorama import (
    equirectangular_directions,
    equirectangular_from_skybox,
    perspective_from_equirectangular,
    perspective_from_skybox,
    pixel_directions,
    project_directions,
    skybox_cameras,
    skybox_from_equirectangular,
    stitch,
)
from mvdiff.geometry.sampling import (
    cell_centres,
    cell_from_pixel,
    inside_image,
    normalized_from_pixel,
    pixel_from_cell,
    pixel_from_normalized,
    sample_bilinear,
)

__all__ = [
    "DEFAULT_DEPTH_TOLERANCE",
    "DepthTolerance",
    "Rig",
    "RingAndPolesRig",
    "RingRig",
    "TapGeometry",
    "apply_homography",
    "cell_centres",
    "cell_from_pixel",
    "depth_correspondence",
    "depth_tap_geometry",
    "equirectangular_directions",
    "equirectangular_from_skybox",
    "homography",
    "inside_image",
    "intrinsics_from_fov",
    "neighbour_table",
    "normalized_from_pixel",
    "overlap_matrix",
    "overlap_neighbours",
    "overlapping_neighbours",
    "perspective_from_equirectangular",
    "perspective_from_skybox",
    "pixel_directions",
    "pixel_from_cell",
    "pixel_from_normalized",
    "project_directions",
    "project_points",
    "resize_intrinsics",
    "rotation_from_yaw_pitch",
    "sample_bilinear",
    "skybox_cameras",
    "skybox_from_equirectangular",
    "stitch",
    "tap_geometry",
    "unproject",
]
