"""Every kind of file that mvdiff reads: how to write a sound one, and the public function that reads it."""

import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from mvdiff.cli.renamed import check_names
from mvdiff.cli.rig_files import read_cameras, read_rig
from mvdiff.data.equirectangular import EquirectangularPanoramas
from mvdiff.data.layouts import Source, open_recording
from mvdiff.data.matterport3d import Matterport3DPanoramas
from mvdiff.data.prepare.sens import import_sens
from mvdiff.data.prepare.shard import image_content
from mvdiff.data.prepare.split import unpack_archives
from mvdiff.data.shards.opening import open_panoramas
from mvdiff.data.shards.writing import write_shards
from mvdiff.data.toyworld.truth import WalkTruth
from mvdiff.data.toyworld.truth import read_truth as read_toy_truth
from mvdiff.eval.comparability import differing, read_results
from mvdiff.eval.comparison import compare
from mvdiff.eval.feature_cache import FeatureCache
from mvdiff.eval.features import ToyFeatureNet
from mvdiff.eval.manifest import read_manifest
from mvdiff.eval.protocol_files import read_protocol
from mvdiff.eval.sources import read_truth, source_from_config
from mvdiff.geometry.cameras import RingRig
from mvdiff.interop.reading import read_lightning_file
from mvdiff.models.backbone import load_backbone
from mvdiff.pipelines.checkpoint import export_checkpoint, read_scores
from mvdiff.pipelines.model_folder import load_adapter, load_scheduler, read_model_info
from mvdiff.pipelines.prompt_files import read_prompts
from mvdiff.recipes.benchmarks.ablation_makers import makers_of
from mvdiff.recipes.benchmarks.ablation_runs import AblationRun
from mvdiff.recipes.fit_command import read_curves
from mvdiff.report.sources import open_sources
from mvdiff.run_files import config_layers
from mvdiff.samples import SampleRecord, read_sample, write_sample
from mvdiff.training.cache import TensorCache
from tests.data.folders import write_equirectangular, write_matterport3d
from tests.data.other_layouts import write_small_transforms, write_small_tum
from tests.data.prepare.test_sens import write_sens
from tests.data.scenes import write_scene
from tests.eval.conforming import small_protocol
from tests.tiny import tiny_base

EYE = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
ASSETS = Path(__file__).parents[2] / "mvdiff" / "assets"


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Attributes:
        write: Writes a folder of sound files.
        file: Name of the file to damage, in that folder.
        read: Reads the folder, as a user's command does.
        rounds: Share of the rounds that this kind gets; slow readers get fewer.
    """

    write: Callable[[Path], Any]
    file: str
    read: Callable[[Path], Any]
    rounds: float = 1.0


def _text(name: str, content: str) -> Callable[[Path], Any]:
    def write(folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / name).write_text(content, encoding="utf-8")

    return write


def _json(name: str, content: Any) -> Callable[[Path], Any]:
    return _text(name, json.dumps(content))


def _read_panoramas(folder: Path) -> None:
    panoramas = EquirectangularPanoramas(folder)
    panoramas.captions(0)
    panoramas.panorama(0)


def _read_faces(folder: Path) -> None:
    panoramas = Matterport3DPanoramas(folder)
    panoramas.captions(0)
    K, R = RingRig(2, 90, height=4, width=4).cameras()
    panoramas.views(0, K, R, 4, 4)


def _read_recording(folder: Path) -> None:
    scene = open_recording(folder)
    if scene.layout == "scannet":
        _ = scene.key_frames
    for frame in [*scene.valid_frames, *scene.frames][:2]:
        scene.image(frame, 4, 6)
        scene.depths(frame, 4, 6)
        scene.intrinsics(4, 6, frame)
        scene.pose(frame)
        if scene.layout == "scannet":
            scene.prompt(frame)


def _write_archive(folder: Path) -> None:
    (folder / "room").mkdir(parents=True)
    with zipfile.ZipFile(folder / "room" / "matterport_skybox_images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for face in range(6):
            Image.new("RGB", (16, 16), (40 * face, 0, 0)).save(folder / "face.jpg")
            archive.write(folder / "face.jpg", f"room/matterport_skybox_images/a_skybox{face}_sami.jpg")
    (folder / "face.jpg").unlink()


def _unpack(folder: Path) -> None:
    for left in folder.glob("room/matterport_skybox_images*/"):
        shutil.rmtree(left)
    unpack_archives(folder)


def _write_sens(folder: Path) -> None:
    folder.mkdir(parents=True)
    write_sens(folder / "a.sens", num_frames=2)


def _import_sens(folder: Path) -> None:
    shutil.rmtree(folder / "scene", ignore_errors=True)
    import_sens(folder / "a.sens", folder / "scene")


def _write_sample(folder: Path) -> None:
    rig = RingRig(num_views=2, height=8, width=8)
    settings = {"truth": [{"object": "sofa"}, None], "frames": [1, 2], "key_frames": [1]}
    record = SampleRecord("room", ["a", "b"], rig=rig.to_dict(), seed=1, settings=settings)
    write_sample(folder, record, np.zeros((2, 8, 8, 3), np.uint8), depths=np.ones((2, 8, 8), np.float32))


def _write_released_sample(folder: Path) -> None:
    folder.mkdir(parents=True)
    for view in range(8):
        Image.new("RGB", (8, 8), (view, 0, 0)).save(folder / f"{view}.png")
    (folder / "prompt.txt").write_text("".join(f"view {view}\n" for view in range(8)))


def _read_sample(folder: Path) -> None:
    sample = read_sample(folder)
    if sample.record.rig or sample.record.cameras:
        sample.record.camera_tensors()
    sample.record.translations()
    sample.record.first_view()
    sample.images_uint8()
    sample.depths()


def _write_model(folder: Path) -> None:
    shutil.copytree(ASSETS / "toy-caa", folder)


def _read_model(folder: Path) -> None:
    info = read_model_info(folder)
    _ = (info.title, info.to_dict())
    load_scheduler(folder)


def _write_features(folder: Path) -> None:
    folder.mkdir(parents=True)
    ToyFeatureNet({"object": ["none", "sofa"]}, width=8, num_features=8).save_pretrained(folder)


def _read_features(folder: Path) -> None:
    ToyFeatureNet.from_pretrained(folder)(torch.zeros(1, 3, 16, 16))


def _write_torch(folder: Path) -> None:
    folder.mkdir(parents=True)
    torch.save({"state_dict": {"a.weight": torch.zeros(8, 8), "b": torch.arange(5)}, "epoch": 1}, folder / "a.ckpt")


def _read_torch(folder: Path) -> None:
    errors = []
    for read in (read_lightning_file, lambda path: export_checkpoint(path, folder / "model")):
        try:
            read(folder / "a.ckpt")
        except ValueError as error:  # the checkpoint is of another model: the second always raises
            errors.append(error)
    for error in errors:
        raise error


def _write_cache(folder: Path) -> None:
    TensorCache(folder).fetch(lambda: torch.ones(3), "a")
    [path] = folder.rglob("*.safetensors")
    save_file({"value": torch.ones(3)}, folder / "a.safetensors")
    path.unlink()
    path.symlink_to(folder / "a.safetensors")


def _read_cache(folder: Path) -> None:
    TensorCache(folder).fetch(lambda: torch.ones(3), "a")


def _write_features_of_images(folder: Path) -> None:
    cache = FeatureCache(folder / "cache")
    cache.fetch({"network": "n"}, [64 * "a"], lambda: {"features": torch.ones(1, 3)})
    cache.flush()
    [path] = folder.rglob("*.safetensors")
    path.rename(folder / "a.safetensors")
    path.symlink_to(folder / "a.safetensors")


def _read_features_of_images(folder: Path) -> None:
    cache = FeatureCache(folder / "cache")
    rows = cache.fetch({"network": "n"}, [64 * "a"], lambda: {"features": torch.ones(1, 3)})
    assert rows["features"].tolist() == [[1, 1, 1]]  # as it was stored, or computed again
    cache.rows_of("w", "v")(64 * "a")


RESULTS = {
    "schema_version": 2,
    "protocol": {"id": "custom", "hash": "d", "values": {}},
    "deviations": ["images.num_samples must be 3; got 2"],
    "generated": {"path": "samples", "kind": "sample folders", "num_samples": 2},
    "reference": None,
    "columns": {"fid": {"title": "FID", "unit": "", "higher_is_better": False, "digits": 2}},
    "metrics": {"fid": {"value": 1.5, "model": "a", "weights_hash": "b", "variant": "c"}, "kid": {"missing": "none"}},
}
COMPARED = RESULTS | {
    "schema_version": 1,
    "generated": RESULTS["generated"] | {"images": {"a": ["0", "1"]}, "geometry": {"a": "2"}},
    "metrics": RESULTS["metrics"] | {"sharpness": {"value": 1, "model": "a", "per_sample": {"a": 1.0, "b": 2.0}}},
}
DATA = {
    "class_path": "mvdiff.data.datamodule.EquirectangularDataModule",
    "init_args": {"root": "nowhere", "rig": {"class_path": "mvdiff.geometry.RingRig", "init_args": {"num_views": 2}}},
}
MANIFEST = {
    **{"schema_version": 1, "content_hash": "a", "geometry_hash": "b", "num_samples": 1, "num_images": 2},
    **{"images": {"room": ["c", "d"]}, "geometry": {"room": "e"}},
}
TRUTH = {"room": [{"object": "sofa"}, None]}
PROMPTS = ["a kitchen", ["a", "b"], {"prompt": "c", "id": "hall"}]


def _compare(path: Path) -> None:
    results = read_results(path)
    differing(COMPARED, results, ("a", "b"))
    compare(COMPARED, results, ("a", "b"), FeatureCache(path.parent))


def _write_toy_truth(folder: Path) -> None:
    (folder / "room" / "truth").mkdir(parents=True)
    (folder / "room" / "truth" / "room.json").write_text(json.dumps({"views": {"0": {"object": "sofa"}, "45": {}}}))
    (folder / "truth").mkdir()
    (folder / "truth" / "things.json").write_text(json.dumps({"things": [{"kind": "sofa", "colour": "red"}]}))


def _read_config(folder: Path) -> None:
    config_layers([folder / "a.yaml"])
    check_names(["--config", str(folder / "a.yaml")])
    source_from_config([folder / "a.yaml"])


def _write_shards(folder: Path) -> None:
    with TemporaryDirectory() as source:
        write_shards(image_content(write_equirectangular(Path(source) / "panoramas", 2, 1)), folder, 10**6)


def _read_shards(folder: Path) -> None:
    panoramas = open_panoramas(folder, "train")
    panoramas.captions(0)
    panoramas.panorama(len(panoramas) - 1)


KINDS = {
    **{
        f"shards: {name}": Kind(_write_shards, name, _read_shards)
        for name in ("manifest.json", "train-000000.json", "train-000000.tar")
    },
    "prompts.jsonl": Kind(
        _text("p.jsonl", "\n".join(map(json.dumps, PROMPTS))), "p.jsonl", lambda f: read_prompts(f / "p.jsonl")
    ),
    "prompts.json": Kind(_json("p.json", PROMPTS), "p.json", lambda f: read_prompts(f / "p.json")),
    "prompts.txt": Kind(_text("p.txt", "a kitchen\na hall\n"), "p.txt", lambda f: read_prompts(f / "p.txt")),
    "list of panoramas": Kind(lambda f: write_equirectangular(f, 2, 1), "train.txt", _read_panoramas),
    "captions of a panorama": Kind(lambda f: write_equirectangular(f, 2, 1), "place0.json", _read_panoramas),
    "panorama": Kind(lambda f: write_equirectangular(f, 2, 1), "place0.png", _read_panoramas),
    "list of faces": Kind(lambda f: (f.mkdir(parents=True), write_matterport3d(f, 2, 1)), "train.npy", _read_faces),
    "caption": Kind(
        lambda f: (f.mkdir(parents=True), write_matterport3d(f, 2, 1)), "scene0/blip3/pano0_45.txt", _read_faces
    ),
    "face": Kind(
        lambda f: (f.mkdir(parents=True), write_matterport3d(f, 2, 1)),
        "scene0/matterport_skybox_images/pano0_skybox1_sami.jpg",
        _read_faces,
    ),
    "archive of faces": Kind(_write_archive, "room/matterport_skybox_images.zip", _unpack),
    **{
        f"scannet {name}": Kind(lambda f: write_scene(f, 3), name, _read_recording)
        for name in (
            *("intrinsic/intrinsic_depth.txt", "pose/0.txt", "depth/0.png", "color/0.png", "prompt/0.txt"),
            *("key_frame_0.6.txt", "valid_frames.npy"),
        )
    },
    "transforms.json": Kind(write_small_transforms, "transforms.json", _read_recording, rounds=3),
    **{
        f"tum {name}": Kind(write_small_tum, name, _read_recording)
        for name in ("rgb.txt", "depth.txt", "groundtruth.txt", "camera.txt")
    },
    ".sens": Kind(_write_sens, "a.sens", _import_sens, rounds=2),
    "sample.json": Kind(_write_sample, "sample.json", _read_sample, rounds=3),
    "view": Kind(_write_sample, "1.png", _read_sample),
    "depth of a view": Kind(_write_sample, "depth/1.png", _read_sample),
    "prompt.txt": Kind(_write_released_sample, "prompt.txt", _read_sample),
    "cameras": Kind(
        _json("c.json", {"height": 8, "width": 8, "views": [{"K": [[4, 0, 4], [0, 4, 4], [0, 0, 1]], "R": EYE}]}),
        "c.json",
        lambda f: read_cameras(f / "c.json"),
    ),
    "rig": Kind(_json("rig.json", RingRig(2).to_dict()), "rig.json", lambda f: read_rig(f / "rig.json"), rounds=3),
    "mvdiff.json": Kind(_write_model, "mvdiff.json", _read_model, rounds=3),
    "model_index.json": Kind(_write_model, "model_index.json", _read_model),
    "scheduler_config.json": Kind(_write_model, "scheduler/scheduler_config.json", _read_model, rounds=3),
    "adapter's config.json": Kind(_write_model, "adapter/config.json", load_adapter, rounds=0.3),
    "adapter's weights": Kind(_write_model, "adapter/diffusion_pytorch_model.safetensors", load_adapter, rounds=0.1),
    **{
        f"base's {name}": Kind(tiny_base, name, load_backbone, rounds=0.1)
        for name in (
            *("scheduler/scheduler_config.json", "unet/config.json", "vae/config.json", "text_encoder/config.json"),
            *("tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json", "model_index.json"),
            *("vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"),
        )
    },
    "feature network": Kind(_write_features, "config.json", _read_features),
    "weights of a feature network": Kind(_write_features, "model.safetensors", _read_features),
    "results of a report": Kind(
        _json("results.json", RESULTS), "results.json", lambda f: open_sources([f / "results.json"]), rounds=2
    ),
    "results for a model card": Kind(
        _json("results.json", RESULTS), "results.json", lambda f: read_scores(f / "results.json")
    ),
    "protocol": Kind(_json("mine.yaml", small_protocol()), "mine.yaml", lambda f: read_protocol(f / "mine.yaml")),
    "manifest": Kind(_json("manifest.json", MANIFEST), "manifest.json", lambda f: read_manifest(f / "manifest.json")),
    "results to compare": Kind(
        _json("results.json", COMPARED), "results.json", lambda f: _compare(f / "results.json"), rounds=2
    ),
    "features of images": Kind(_write_features_of_images, "a.safetensors", _read_features_of_images),
    "truth": Kind(_json("truth.json", TRUTH), "truth.json", lambda f: read_truth(f / "truth.json")),
    "toy truth": Kind(_write_toy_truth, "room/truth/room.json", lambda f: read_toy_truth(f, "room_room")),
    "toy walk": Kind(_write_toy_truth, "truth/things.json", WalkTruth),
    "config": Kind(_json("a.yaml", {"data": DATA, "extends": None}), "a.yaml", _read_config, rounds=0.3),
    "source": Kind(
        _json("a.yaml", {"class_path": "mvdiff.data.tum.TumRecording", "init_args": {"max_seconds": 0.1}}),
        "a.yaml",
        lambda f: Source.of_option(str(f / "a.yaml")),
    ),
    "checkpoint": Kind(_write_torch, "a.ckpt", _read_torch),
    "cache": Kind(_write_cache, "a.safetensors", _read_cache),
    "makers of a run": Kind(
        _json("made_by.json", {"made_by": [{"commit": "a", "machine": None}]}),
        "made_by.json",
        lambda f: makers_of(AblationRun(f)),
    ),
    "log of a training": Kind(
        _text("metrics.csv", "step,epoch,loss\n0,0,1.5\n1,0,1.4\n"),
        "metrics.csv",
        lambda f: read_curves(f / "metrics.csv"),
    ),
}
