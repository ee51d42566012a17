"""Every layout of recordings gives the same samples, lists, captions and mesh; users' own classes do, too."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from mvdiff.cli.main import main
from mvdiff.data.datamodule import PanoramaDataModule
from mvdiff.data.frame_files import KEY_FRAMES
from mvdiff.data.layouts import Source, find_recordings, open_recording, split_scenes
from mvdiff.data.prepare.caption import caption_folder
from mvdiff.data.prepare.check import check_folder
from mvdiff.data.prepare.linked_copy import output_folder
from mvdiff.data.recording_datamodule import RecordingDataModule
from mvdiff.data.recordings import RecordingSource
from mvdiff.data.scannet_datamodule import ScanNetDataModule
from mvdiff.data.toyworld.write import write_walk
from mvdiff.geometry import RingRig
from tests.data.other_layouts import write_small_transforms, write_small_tum, write_transforms, write_tum
from tests.data.scenes import write_scene

LAYOUTS = ("scannet", "transforms", "transforms per frame", "tum")


class MyRecording(RecordingSource):
    """A layout of a user's: one archive of arrays."""

    layout = "mine"
    parts = ("recording.npz",)

    def __init__(self, path, scale=1.0, **settings):
        super().__init__(path, **settings)
        self.arrays, self.scale = dict(np.load(self.path / "recording.npz")), scale

    @property
    def frames(self):
        return list(range(len(self.arrays["poses"])))

    def file(self, kind, frame):
        return self.path / "recording.npz"

    def load_intrinsics(self, frame):
        return torch.from_numpy(self.arrays["K"])

    def load_pose(self, frame):
        return self.arrays["poses"][frame]

    def load_image(self, frame):
        return torch.from_numpy(self.arrays["images"][frame])

    def load_depths(self, frame):
        return torch.from_numpy(self.arrays["depths"][frame] * np.float32(self.scale))

    @property
    def depth_size(self):
        return self.arrays["depths"].shape[1:]


def write_mine(scene, out):
    """Write a scene as the user's layout, read by the built-in one."""
    out.mkdir(parents=True)
    recording = open_recording(scene)
    frames = recording.frames
    arrays = {
        "K": recording.load_intrinsics(0).numpy(),
        "poses": np.stack([recording.load_pose(frame) for frame in frames]),
        "images": np.stack([recording.load_image(frame).numpy() for frame in frames]),
        "depths": np.stack([recording.load_depths(frame).numpy() for frame in frames]),
    }
    np.savez(out / "recording.npz", **arrays)
    for frame in frames:
        (out / "prompt").mkdir(exist_ok=True)
        (out / "prompt" / f"{frame}.txt").write_text(recording.prompt(frame) + "\n")
    return out


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """Roots of data sets of the same three walks, train and test, by layout."""
    root = tmp_path_factory.mktemp("worlds")
    writers = {
        "transforms": write_transforms,
        "transforms per frame": lambda scene, out: write_transforms(scene, out, per_frame=True),
        "tum": write_tum,
        "mine": write_mine,
    }
    for number, split in enumerate(("train", "train", "test")):
        name = write_walk(root / "scannet" / split, 1, number, 32, 24, arc_deg=150)
        for layout, write in writers.items():
            write(root / "scannet" / split / name, root / layout / split / name)
    return {layout: root / layout for layout in ("scannet", *writers)}


def loaders(module):
    module.setup("fit")
    return module.train_dataloader(), module.val_dataloader(), module.test_dataloader()


def batches(module):
    return [batch for loader in loaders(module) for batch in loader]


SETTINGS = {"height": 24, "width": 32, "num_views": 4, "min_frames": 2, "num_val": 1, "batch_size": 2}


@pytest.mark.parametrize("mode", ["mixed", "interval"])
@pytest.mark.parametrize("layout", LAYOUTS[1:])
def test_the_same_batches_in_every_layout(worlds, layout, mode):
    expected = batches(ScanNetDataModule(worlds["scannet"], mode=mode, interval=2, **SETTINGS))
    found = batches(RecordingDataModule(worlds[layout], mode=mode, interval=2, **SETTINGS))
    assert len(found) == len(expected) > 3
    for one, other in zip(found, expected, strict=True):
        assert (one.sample_id, one.prompts) == (other.sample_id, other.prompts)
        torch.testing.assert_close(one.images, other.images, rtol=0, atol=0)
        torch.testing.assert_close(one.depths, other.depths, rtol=1e-6, atol=0)
        for name in ("K", "R", "t"):
            torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(one.known, other.known, rtol=0, atol=0)


def test_layouts_may_be_mixed(worlds, tmp_path):
    for number, layout in enumerate(("scannet", "tum", "transforms")):
        split = tmp_path / ("test" if number == 2 else "train")
        split.mkdir(exist_ok=True)
        (split / f"{layout}{number}").symlink_to(sorted((worlds[layout] / split.name).iterdir())[0])
    module = RecordingDataModule(tmp_path, **SETTINGS)
    names = {batch.sample_id[0].rsplit("_", 2)[0] for batch in batches(module)}
    assert names == {"scannet0", "tum1", "transforms2"}, "a scene is called as its link in the data set"


@pytest.fixture(scope="module")
def mesh_of(worlds, tmp_path_factory):
    def mesh(layout):
        scene = next((worlds[layout] / "test").iterdir())
        out = tmp_path_factory.mktemp("meshes") / "mesh.ply"
        assert main(["mesh", str(scene), "--out", str(out), "--voxel_size", "0.2"]) == 0
        return trimesh.load(out, process=False)

    return mesh


@pytest.mark.parametrize("layout", LAYOUTS[1:])
def test_the_same_mesh_in_every_layout(mesh_of, layout):
    expected, found = mesh_of("scannet"), mesh_of(layout)
    assert abs(len(found.vertices) - len(expected.vertices)) <= 2  # a zero crossing may move over a voxel's edge
    distances = np.abs(np.sort(found.vertices, axis=0)[:1000] - np.sort(expected.vertices, axis=0)[:1000])
    assert np.quantile(distances, 0.99) < 1e-4


@pytest.mark.parametrize("layout", [*LAYOUTS[1:], "mine"])
def test_commands_prepare_every_layout(worlds, tmp_path, capsys, layout):
    data = ["--data", f"{__name__}.MyRecording"] if layout == "mine" else []
    source = Source.of_option(data[1]) if data else None
    scene = next((worlds[layout] / "test").iterdir())
    out = tmp_path / "out"
    assert main(["data", "keyframes", str(scene), "--out", str(out), "--overwrite", *data]) == 0
    expected = next((worlds["scannet"] / "test").iterdir()) / KEY_FRAMES
    assert (out / KEY_FRAMES).read_text() == expected.read_text()
    assert main(["data", "check", str(out), *data]) == 0
    said = capsys.readouterr().out
    assert "scenes: 1 in no split; images: 48 of 32x24; captions: 24; depth agreement 0.9" in said
    assert "warning" not in said
    for caption in (out / "prompt").iterdir():
        caption.unlink()
    report = caption_folder(out, lambda images: [f"shade {int(image.sum())}" for image in images], source=source)
    assert (report.written, report.failed) == (len(expected.read_text().split()), [])
    kept = open_recording(out, source, missing_caption="nearest")
    image = kept.load_image(kept.key_frames[1])
    assert kept.prompt(kept.key_frames[1]) == f"shade {int(image.sum())}"


def test_recordings_of_a_users_own_class_are_split(worlds, tmp_path, capsys):
    for scene in find_recordings(worlds["mine"], Source(MyRecording)):
        shutil.copytree(scene, tmp_path / scene.name)
    assert main(["data", "split", str(tmp_path)]) == 1  # no layout of the package
    assert main(["data", "split", str(tmp_path), "--data", f"{__name__}.MyRecording", "--test_fraction", "0.5"]) == 0
    lists = [(tmp_path / f"{split}.txt").read_text().split() for split in ("train", "test")]
    assert all(lists)
    names = [scene.name for scene in find_recordings(tmp_path, Source(MyRecording))]
    assert sorted([*lists[0], *lists[1]]) == sorted(names)
    assert [scene.name for scene in split_scenes(tmp_path, "test", Source(MyRecording))] == lists[1]
    assert main(["data", "split", str(tmp_path), "--data", f"{__name__}.MyPanoramas"]) == 1
    assert "must be a mvdiff.data.recordings.RecordingSource" in capsys.readouterr().err


def test_a_users_own_class_trains_and_fuses(worlds, tmp_path, capsys):
    for scene in find_recordings(worlds["mine"], Source(MyRecording)):
        assert main(["data", "keyframes", str(scene), "--data", f"{__name__}.MyRecording"]) == 0
    expected = batches(ScanNetDataModule(worlds["scannet"], mode="keyframes", **SETTINGS))
    found = batches(RecordingDataModule(worlds["mine"], source=f"{__name__}.MyRecording", **SETTINGS))
    for one, other in zip(found, expected, strict=True):
        assert (one.sample_id, one.prompts) == (other.sample_id, other.prompts)
        torch.testing.assert_close(one.depths, other.depths, rtol=0, atol=0)
        torch.testing.assert_close(one.t, other.t, rtol=0, atol=0)
    settings = tmp_path / "mine.yaml"
    settings.write_text(f"class_path: {__name__}.MyRecording\ninit_args: {{scale: 2.0}}\n")
    scene = next((worlds["mine"] / "test").iterdir())
    capsys.readouterr()
    assert main(["mesh", str(scene), "--data", str(settings), "--out", str(tmp_path / "mesh.ply")]) == 1
    error = capsys.readouterr().err  # depths twice too large: the settings were used
    assert "agree with each other" in error
    assert "units of 0.5 mm and are read as 1 mm" in error
    assert "store depth images with 1000 units a metre, not 2000" in error
    spec = {"class_path": f"{__name__}.MyRecording", "init_args": {"scale": 2.0}}
    with pytest.raises(ValueError, match=r"depths and poses disagree.*set check_agreement to false"):
        batches(RecordingDataModule(worlds["mine"], source=spec, **SETTINGS))
    doubled = batches(RecordingDataModule(worlds["mine"], source=spec, check_agreement=False, **SETTINGS))
    torch.testing.assert_close(doubled[0].depths, 2 * found[0].depths, rtol=0, atol=0)


def test_folders_of_several_layouts_and_of_none(tmp_path, capsys):
    both = write_small_transforms(write_small_tum(tmp_path / "both"))
    for arguments in (["data", "check", str(both)], ["mesh", str(both), "--out", str(tmp_path / "mesh.ply")]):
        assert main(arguments) == 1
        error = capsys.readouterr().err
        assert f"{both} must have one layout; got transforms.json (transforms.json layout) and rgb.txt" in error
        assert "mvdiff.data.transforms_json.TransformsRecording, with --data" in error
    assert main(["data", "check", str(both), "--data", "mvdiff.data.tum.TumRecording"]) == 1
    assert "TUM RGB-D layout; scenes: 1" in capsys.readouterr().out
    (both / "groundtruth.txt").unlink()  # one of the two is not whole
    assert open_recording(both).layout == "transforms.json"
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError, match=r"none must be a scene with color.*transforms\.json.*rgb\.txt"):
        open_recording(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"it holds several\. Name one of them, such as .*both"):
        open_recording(tmp_path)


def test_a_scene_that_lacks_a_part_or_cannot_be_opened_is_named_by_check(tmp_path):
    tum = write_small_tum(tmp_path / "train" / "tum")
    (tum / "depth.txt").unlink()
    broken = write_small_transforms(tmp_path / "train" / "broken", k1=0.1)
    lacks = write_small_tum(tmp_path / "test" / "lacks", (1.0, 1.1), (1.0,))
    write_scene(tmp_path / "test" / "whole", num_frames=4)
    report = check_folder(tmp_path)
    problems = {(problem.kind, problem.path) for problem in report.problems}
    assert report.layout == "TUM RGB-D, scannet, transforms.json"
    assert problems >= {("missing file", tum / "depth.txt"), ("broken scene", broken), ("missing depth", lacks)}
    assert not [path for _, path in problems if "whole" in str(path)]


def test_check_says_where_depths_and_poses_contradict_each_other(worlds, tmp_path, capsys):
    scene = write_transforms(next((worlds["scannet"] / "test").iterdir()), tmp_path / "room")
    content = json.loads((scene / "transforms.json").read_text())
    for frame in content["frames"]:  # the axes of OpenCV where OpenGL's should be
        frame["transform_matrix"] = (np.array(frame["transform_matrix"]) @ np.diag([1.0, -1, -1, 1])).tolist()
    (scene / "transforms.json").write_text(json.dumps(content))
    assert main(["data", "check", str(scene)]) == 1
    out = capsys.readouterr().out
    assert f"depths and poses disagree: {scene} (its depths contradict each other (agreement 0." in out
    assert "likely cause: its poses have OpenCV axes, not OpenGL's (agreement is then 0.9" in out
    assert "replace each pose by pose @ diag(1, -1, -1, 1)" in out


class MyPanoramas:
    """A layout of panoramas of a user's: numbered grey values in a text file a split."""

    def __init__(self, root, split, on_broken="error", caption="grey"):
        self.values = [float(word) for word in (Path(root) / f"{split}.list").read_text().split()]
        self.caption = caption

    def __len__(self):
        return len(self.values)

    def sample_id(self, index):
        return f"grey{index}"

    def views(self, index, K, R, height, width):
        if self.values[index] > 1:
            raise ValueError(f"grey must be at most 1; got {self.values[index]}.")
        return torch.full((len(K), 3, height, width), self.values[index])

    def captions(self, index):
        return {0: f"{self.caption} {self.values[index]}"}


def test_a_users_own_panoramas(tmp_path, capsys):
    (tmp_path / "train.list").write_text("0.25 0.5 0.75")
    (tmp_path / "test.list").write_text("-1")
    source = {"class_path": f"{__name__}.MyPanoramas", "init_args": {"caption": "all"}}
    rig = RingRig(num_views=2, height=8, width=8)
    module = PanoramaDataModule(tmp_path, rig, source=source, num_val=1)
    train, val, test = ([batch.prompts[0][0] for batch in loader] for loader in loaders(module))
    assert sorted(prompt.split(". ")[-1] for prompt in train) == ["all 0.25", "all 0.5"]
    assert [prompts[0].split(". ")[-1] for prompts in (val, test)] == ["all 0.75", "all -1.0"]
    assert main(["data", "check", str(tmp_path), "--data", f"{__name__}.MyPanoramas"]) == 0
    assert "MyPanoramas layout; panoramas: 3 in train, 1 in test; images: ; captions: 4" in capsys.readouterr().out
    (tmp_path / "train.list").write_text("0.25 5")
    assert main(["data", "check", str(tmp_path), "--data", f"{__name__}.MyPanoramas"]) == 1
    assert f"broken panorama: {tmp_path / 'grey1'} (train; grey must be at most 1; got 5.0.)" in capsys.readouterr().out
    (tmp_path / "test.list").unlink()
    assert main(["data", "check", str(tmp_path), "--data", f"{__name__}.MyPanoramas"]) == 1
    assert "broken split" in capsys.readouterr().out
    with pytest.raises(ValueError, match="source must name a class that reads panoramas; got None"):
        PanoramaDataModule(tmp_path)


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("nothing.there", "'nothing.there'"),
        ("MySource", "'MySource'"),
        ("math.sqrt", "'math.sqrt', a builtin_function_or_method"),
        ("mvdiff.data.matterport3d.Matterport3DPanoramas", "RecordingSource"),
    ],
)
def test_classes_that_are_none(tmp_path, capsys, option, text):
    scene = write_small_tum(tmp_path / "room")
    assert main(["data", "keyframes", str(scene), "--data", option]) == 1
    assert text in capsys.readouterr().err


@pytest.mark.parametrize("content", ["[1]", "class: a.b", "class_path: a.b\nrest: 1", "{"])
def test_yaml_files_that_are_none(tmp_path, capsys, content):
    file = tmp_path / "source.yaml"
    file.write_text(content)
    assert main(["data", "keyframes", str(write_small_tum(tmp_path / "room")), "--data", str(file)]) == 1
    assert "class_path" in (error := capsys.readouterr().err) or "source.yaml must " in error


@pytest.mark.parametrize(
    ("write", "listed_in"), [(write_small_transforms, "transforms.json"), (write_small_tum, "rgb.txt")]
)
def test_a_listed_frame_beyond_the_end(tmp_path, write, listed_in):
    path = write(tmp_path / "room")
    np.save(path / "valid_frames.npy", np.array([0, 1, 2, 7]))
    (path / KEY_FRAMES).write_text("0\n7\n")
    for kind in ("color", "depth"):
        with pytest.raises(FileNotFoundError, match=rf"{listed_in} must list frame 7; it has frames 0 to 2"):
            open_recording(path).file(kind, 7)
    with pytest.raises(FileNotFoundError, match=rf"valid_frames\.npy.*got 7, but .*{listed_in}"):
        _ = open_recording(path).valid_frames
    skipping = open_recording(path, on_broken="skip")
    assert (skipping.valid_frames, skipping.key_frames, skipping.unusable) == ([0, 1, 2], [0], {"no color": 1})
    details = [(p.path.name, p.details) for p in check_folder(path).problems if p.kind == "listed frame does not exist"]
    assert sorted(details) == [(KEY_FRAMES, "frame 7"), ("valid_frames.npy", "frame 7")]


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("json.JSONDecoder", "got json.decoder.JSONDecoder"),
        ("mvdiff.data.recordings.RecordingSource", "got mvdiff.data.recordings.RecordingSource"),
        (
            {"class_path": "mvdiff.data.tum.TumRecording", "init_args": {"max_second": 1}},
            "TumRecording.*got max_second",
        ),
        ({"class_path": f"{__name__}.MyRecording", "init_args": {"scael": 2.0}}, "MyRecording.*got scael"),
        ({"class_path": f"{__name__}.MyRecording", "init_args": [2.0]}, r"MyRecording; got \[2\.0\]"),
    ],
)
def test_classes_and_settings_that_are_refused(spec, text):
    with pytest.raises(ValueError, match=text):
        Source.of(spec)


def test_a_class_that_does_not_take_its_arguments(tmp_path):
    class Needy(MyRecording):
        def __init__(self, path, unit, **settings):
            super().__init__(path, **settings)

    with pytest.raises(ValueError, match=r"Needy .*'unit'"):
        Source(Needy)(tmp_path)


@pytest.mark.parametrize("write", [write_small_transforms, write_small_tum])
def test_another_folder_of_lists_has_links_to_everything_else(tmp_path, write):
    path = write(tmp_path / "data" / "room")
    (path / KEY_FRAMES).write_text("0\n")
    copy = output_folder(path, tmp_path / "data", tmp_path / "out" / "deep")
    assert [entry.name for entry in copy.iterdir() if not entry.is_symlink()] == [KEY_FRAMES]
    assert open_recording(copy).valid_frames == open_recording(path).valid_frames == [0, 1, 2]
