"""Cameras, correspondences between views (by homography or by depth) and panoramas, as pure functions of tensors.

Conventions, defined here and illustrated in `docs/conventions.md`:

1. Camera axes follow OpenCV: x right, y down, z forward. The world is right-handed; its axes are those of the camera
   at yaw 0, pitch 0.
2. `R` is world-from-camera: `x_world = R @ x_camera`; poses add `t`, the camera centre in metres. Depth is z-depth in
   metres; 0 means unknown. A composed transform names both frames and reads from right to left:
   `pixel_target_from_pixel_source`.
3. `R = R_y(yaw) R_x(pitch)`. Positive yaw turns right, positive pitch looks up. Angles are degrees in the API (`_deg`)
   and radians internally.
4. Pixels (x, y): integers are pixel centres, and an image spans [-0.5, W - 0.5] x [-0.5, H - 0.5]. The principal point
   is cx = (W - 1)/2, cy = (H - 1)/2; f = W / (2 tan(FoV/2)) with the horizontal field of view. Resizing by s maps x to
   s (x + 0.5) - 0.5.
5. Cell i of a map with stride s is centred at pixel s*i + (s - 1)/2. Only `sampling.py` handles half pixels.
6. Equirectangular images: W = 2H, the centre is yaw 0, yaw grows to the right, and the top row is closest to pitch +90:
   yaw = (x + 0.5)/W * 360 - 180, pitch = 90 - (y + 0.5)/H * 180.
7. Skyboxes: six faces of 90 degrees: 0 up, 1 yaw 270, 2 yaw 0, 3 yaw 90, 4 yaw 180, 5 down. The up and down cameras
   yaw to 270 before they pitch by +90 and -90, so the bottom edge of the up face and the top edge of the down face
   meet the face at yaw 270.
8. A projection returns `visible`: in front of the camera, inside the image and, where depths are known, not occluded.
   Coordinates of invisible points are finite.
9. Coordinates are (x, y) in the last axis; (row, column) is only for array indices. Computations that decide which
   pixel is meant run in float64, never under autocast or TF32.
10. `known` is 1 for given pixels and 0 for pixels to generate. Inpainting UNets expect the opposite mask; only
    `mvdiff.models.inpainting` inverts `known`. The depth model's indicator of given frames
    (`mvdiff.models.conditioning`) is 1 on given frames, like `known`.
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
    covered_rows,
    cube_faces,
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
    "covered_rows",
    "cube_faces",
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
