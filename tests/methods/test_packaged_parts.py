"""The packaged parts of methods can do what they were trained for, in rooms of a world that they have not seen."""

from dataclasses import replace

import pytest
import torch

from mvdiff.batch import MultiViewBatch
from mvdiff.data.toyworld.captions import describe
from mvdiff.data.toyworld.scene import make_walk, walk_poses
from mvdiff.data.toyworld.write import render_view, write_toyworld
from mvdiff.data.whole_panoramas import WholePanoramaDataModule
from mvdiff.eval.weights import tensors_hash
from mvdiff.geometry.cameras import intrinsics_from_fov
from mvdiff.models.backbone import load_backbone
from mvdiff.models.controlnet import check_controlnet, load_controlnet
from mvdiff.training.controlnet import ControlNetModule
from mvdiff.training.single_view import SingleViewModule

WORLD = 77


def loss(module: SingleViewModule, batch: MultiViewBatch) -> float:
    with torch.no_grad():
        return module.eval().noise_loss(batch, batch.prompts).item()


def test_the_panorama_base_knows_panoramas_and_reads_their_prompts(tmp_path):
    write_toyworld(tmp_path, rooms=5, test_rooms=4, seed=WORLD, num_frames=0)
    rooms = WholePanoramaDataModule(tmp_path / "mp3d_skybox", 64).eval_dataset("test")
    batch = MultiViewBatch.collate([rooms[index] for index in range(len(rooms))])
    settings = {"out": str(tmp_path / "out"), "prompt_prefix": ""}
    finetuned = SingleViewModule(base="mvdiff://toy-pano-base", **settings)
    own = loss(finetuned, batch)
    assert own < 0.7 * loss(SingleViewModule(base="mvdiff://toy-base", **settings), batch)
    assert own < 0.9 * loss(finetuned, replace(batch, prompts=batch.prompts[1:] + batch.prompts[:1]))


def test_the_panorama_base_has_the_other_parts_of_the_toy_base():
    """Golden: the hash of the whole folder that the training wrote."""
    backbone, base = load_backbone("mvdiff://toy-pano-base"), load_backbone("mvdiff://toy-base")
    assert backbone.weights_hash() == "ece2d2cbe30bbd4c51076f438ca31a1e"
    parts = ["text_encoder", "vae"]
    assert backbone.weights_hashes(parts) == base.weights_hashes(parts)
    assert backbone.scheduler.config == base.scheduler.config


def test_the_controlnet_follows_depth(tmp_path):
    """Frames are predicted better with their depth than without, and worse with the depth of their mirror image."""
    K, prompts, images, depths = intrinsics_from_fov(65.0, 48, 64), [], [], []
    for room in range(4):
        scene, poses = make_walk(WORLD, room), walk_poses(WORLD, room, 60)
        for R, t in poses[::30]:
            hits = render_view(scene, K, torch.from_numpy(R), t, 48, 64, supersampling=2)
            images.append(torch.from_numpy(hits.colour).movedim(-1, 0) * 2 - 1)
            depths.append(torch.from_numpy(hits.distance))
            prompts.append([describe(scene, hits.label)])
    eye = torch.eye(3).expand(len(images), 1, 3, 3)
    batch = MultiViewBatch.from_cameras(eye, eye, 48, 64, depths=torch.stack(depths)[:, None].float())
    batch = replace(batch, images=torch.stack(images)[:, None].float(), prompts=prompts)
    module = ControlNetModule(out=str(tmp_path / "out"), base="mvdiff://toy-base")
    without = loss(module, batch)
    module.controlnet = load_controlnet("mvdiff://toy-controlnet")
    own = loss(module, batch)
    assert own < 0.8 * without
    assert own < 0.8 * loss(module, replace(batch, depths=batch.depths.flip(-1)))


@pytest.mark.parametrize("base", ["mvdiff://toy-base", "mvdiff://toy-inpainting-base"])
def test_the_controlnet_fits_its_bases(base):
    controlnet, backbone = load_controlnet("mvdiff://toy-controlnet"), load_backbone(base)
    check_controlnet(controlnet, backbone.unet, backbone.latent_channels, backbone.vae_stride)
    assert tensors_hash(controlnet.state_dict()) == "09254a052ff4c826009cb0ed5b06f25a2a85eb2ada63ffb1ef3379c860618440"
