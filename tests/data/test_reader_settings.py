"""Settings of readers come from YAML that people type: a wrong type is named with the setting."""

import pytest

from mvdiff.data.layouts import Source
from tests.data.other_layouts import write_small_transforms, write_small_tum
from tests.data.scenes import write_scene

READERS = {
    "scannet.ScanNetScene": {"depth_units_per_metre": ("1e3", "null", ".inf", "true", "[1000]", "{}")},
    "tum.TumRecording": {
        "depth_units_per_metre": ("1e3", "null"),
        "max_seconds": ("2e-2", "null", "true"),
        "intrinsics": ("1234", "[1, 1, a, 1]", "[.nan, 1, 1, 1]", "[0, 1, 1, 1]", "5251"),
    },
    "transforms_json.TransformsRecording": {"depth_unit_scale_factor": ("1e-3", "true", "[]")},
    "equirectangular.EquirectangularPanoramas": {"max_pixels": ("1e6", "true", "0", "[]")},
    "matterport3d.Matterport3DPanoramas": {"max_pixels": ("1e6", "2.5")},
}


@pytest.mark.parametrize(("reader", "setting"), [(reader, name) for reader, of in READERS.items() for name in of])
def test_settings_of_a_reader_of_wrong_types_are_named(tmp_path, reader, setting):
    scene = write_scene(tmp_path / "room", num_frames=1)
    if reader.startswith("tum"):
        scene = write_small_tum(tmp_path / "tum")
    elif reader.startswith("transforms"):
        scene = write_small_transforms(tmp_path / "transforms")
    for value in READERS[reader][setting]:
        (tmp_path / "reader.yaml").write_text(f"class_path: mvdiff.data.{reader}\ninit_args: {{{setting}: {value}}}\n")
        source = Source.of_option(str(tmp_path / "reader.yaml"))
        with pytest.raises(ValueError, match=rf"{setting} must be|of {setting} must be") as error:
            source(scene)
        if value == "1e3":
            assert "must be a finite number; got '1e3' (YAML reads it as text; write 1000.0 instead)" in str(
                error.value
            )
