"""Files that other programs write and read: LoRAs in the forms that circulate, colours of a mesh."""

import json
import struct

import numpy as np
import pytest

from mvdiff.mesh.reading import read_mesh
from mvdiff.mesh.surface import Mesh, write_mesh
from mvdiff.pipelines.panorama import MVDiffusionPanoramaPipeline

LAYERS = {"kohya": 13, "kohya-fp16": 13, "kohya-no-alpha": 1, "kohya-te-only": 12, "locon": 2}


def test_loras_are_used_in_full_or_refused(case, shows):
    pipeline = MVDiffusionPanoramaPipeline.from_pretrained("mvdiff://toy-caa")
    loaded, refused = {}, {}
    for path in sorted(case(65).glob("*.safetensors")):
        try:
            pipeline.load_lora_weights(path, adapter_name="x")
            loaded[path.stem] = len(pipeline.lora_layers("x"))
            pipeline.unload_lora_weights()
        except ValueError as error:
            refused[path.stem] = str(error).split("got ")[1].split(", which")[0]
    shows(65, "load_lora_weights", f"loaded {loaded}; refused {refused}")
    assert loaded == LAYERS
    assert refused["dora"] == "DoRA"
    assert refused["sdxl-te2"] == "a LoRA for SDXL's second text encoder"
    assert len(refused) == 8


@pytest.mark.usefixtures("test_data")
def test_dark_colours_of_a_mesh_stay_apart(tmp_path, shows):
    grey = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    points = np.stack([np.arange(256.0), np.arange(256.0) % 2, np.zeros(256)], axis=1)
    faces = np.stack([np.arange(254), np.arange(254) + 1, np.arange(254) + 2], axis=1)
    data = write_mesh(tmp_path / "strip.glb", Mesh(points, faces, grey)).read_bytes()
    tree = json.loads(data[20 : 20 + struct.unpack("<I", data[12:16])[0]])
    accessor = tree["accessors"][tree["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"]]
    kind = accessor["componentType"], accessor["normalized"]
    same = np.array_equal(read_mesh(tmp_path / "strip.glb").colours, grey)
    shows(78, "mesh --out x.glb", f"COLOR_0 {kind} (16 bits); 256 greys come back: {same}")
    assert (kind, same) == ((5123, True), True)
