"""Recordings on disk whose depths, poses or colours are wrong: what is said, in every command and layout."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mvdiff.cli.main import main
from mvdiff.data.agreement import scene_agreement
from mvdiff.data.layouts import Source, open_recording
from mvdiff.data.recording_datamodule import RecordingDataModule
from mvdiff.data.scannet import ScanNetScene
from mvdiff.data.toyworld.write import write_walk
from tests.data.other_layouts import write_transforms, write_tum
from tests.data.scenes import write_depth, write_scene

FLIP = np.diag([1.0, -1, -1, 1])


@pytest.fixture(scope="module")
def walks(tmp_path_factory):
    """A folder with one walk of 24 frames of 36 x 48, by layout."""
    root = tmp_path_factory.mktemp("walks")
    scene = root / write_walk(root, 0, 3, 48, 24)
    return {
        "scannet": scene,
        "transforms": write_transforms(scene, root / "transforms"),
        "tum": write_tum(scene, root / "tum"),
    }


@pytest.fixture
def copied(walks, tmp_path):
    """Return a function that copies the ScanNet walk, with other poses, depths and colours."""

    def copy(name="train/room", pose=lambda pose: pose, depth=lambda values: values, colour=None):
        scene, source = tmp_path / name, walks["scannet"]
        for sub in ("pose", "depth", "color"):
            (scene / sub).mkdir(parents=True)
        for sub in ("prompt", "intrinsic", "key_frame_0.6.txt", "valid_frames.npy"):
            (scene / sub).symlink_to(source / sub)
        for path in (source / "pose").iterdir():
            np.savetxt(scene / "pose" / path.name, pose(np.loadtxt(path)))
        for path in (source / "depth").iterdir():
            Image.fromarray(depth(np.array(Image.open(path), np.int64)).astype(np.uint16)).save(
                scene / "depth" / path.name
            )
        for path in (source / "color").iterdir():
            (scene / "color" / path.name).symlink_to(path)
            if colour is not None:
                (scene / "color" / path.name).unlink()
                colour(Image.open(path)).save(scene / "color" / path.name, quality=95)
        return scene

    return copy


def translated(factor):
    def change(pose):
        result = pose.copy()
        result[:3, 3] *= factor
        return result

    return change


MISTAKES = {
    "OpenGL axes": ({"pose": lambda pose: pose @ FLIP}, "its poses have OpenGL axes", "pose @ diag(1, -1, -1, 1)"),
    "inverse": ({"pose": np.linalg.inv}, "its poses are camera-from-world (", "by inv(pose)"),
    "inverse of OpenGL": (
        {"pose": lambda pose: np.linalg.inv(pose @ FLIP)},
        "its poses are camera-from-world in OpenGL axes",
        "by inv(pose) @ diag(1, -1, -1, 1)",
    ),
    "millimetres": (
        {"pose": translated(1000)},
        "the translations of its poses are in millimetres",
        "divide the translations of its poses by 1000",
    ),
    "0.25 mm": (
        {"depth": lambda values: 4 * values},
        "its depth images have units of 0.25 mm and are read as 1 mm",
        "set depth_units_per_metre to 4000: class_path mvdiff.data.scannet.ScanNetScene",
    ),
    "0.2 mm": (
        {"depth": lambda values: 5 * values},
        "its depth images have units of 0.2 mm and are read as 1 mm",
        "set depth_units_per_metre to 5000",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_cause_and_what_mends_it_are_named(copied, mistake):
    how, cause, remedy = MISTAKES[mistake]
    [(kind, details)] = scene_agreement(open_recording(copied(**how))).problems
    assert kind == "depths and poses disagree"
    assert cause in details
    assert remedy in details


def test_no_false_alarm_in_any_layout(walks):
    for scene in walks.values():
        found = scene_agreement(open_recording(scene))
        assert (found.problems, found.warnings) == ([], [])
        assert found.consistency.agreement > 0.95
        assert found.consistency.colour > 0.95


def test_the_named_unit_mends_it(copied, capsys):
    scene = copied(depth=lambda values: 4 * values)
    settings = scene.parents[1] / "quarter.yaml"
    settings.write_text(
        "class_path: mvdiff.data.scannet.ScanNetScene\ninit_args: {depth_units_per_metre: 4000}\n", encoding="utf-8"
    )
    assert main(["data", "check", str(scene)]) == 1
    assert main(["data", "check", str(scene), "--data", str(settings)]) == 0
    with pytest.raises(ValueError, match="depth_units_per_metre must be positive; got 0"):
        Source.of({"class_path": "mvdiff.data.scannet.ScanNetScene", "init_args": {"depth_units_per_metre": 0}})(scene)


@pytest.mark.parametrize(
    ("change", "cause", "remedy"),
    [
        (lambda pose: pose @ FLIP, "its poses have OpenCV axes, not OpenGL's", "pose @ diag(1, -1, -1, 1)"),
        (np.linalg.inv, "its poses are camera-from-world (", "by inv(pose)"),
        (lambda pose: np.linalg.inv(pose @ FLIP), "camera-from-world in OpenCV axes", "inv(pose) @ diag(1, -1, -1, 1)"),
        (
            translated(1000),
            "translations of its poses are in millimetres",
            "set applied_scale in transforms.json to 1000",
        ),
    ],
)
def test_poses_of_transforms_json(walks, tmp_path, change, cause, remedy):
    content = json.loads((walks["transforms"] / "transforms.json").read_text())
    for frame in content["frames"]:
        frame["transform_matrix"] = change(np.array(frame["transform_matrix"])).tolist()
    for folder in ("images", "depth"):
        (tmp_path / folder).symlink_to(walks["transforms"] / folder)
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    [(_, details)] = scene_agreement(open_recording(tmp_path)).problems
    assert cause in details
    assert remedy in details


def test_units_of_transforms_json_and_tum(walks, tmp_path):
    content = json.loads((walks["transforms"] / "transforms.json").read_text())
    for folder in ("images", "depth"):
        (tmp_path / folder).symlink_to(walks["transforms"] / folder)
    (tmp_path / "transforms.json").write_text(json.dumps(content | {"depth_unit_scale_factor": 0.004}))
    problem = scene_agreement(open_recording(tmp_path)).problem
    assert "set depth_unit_scale_factor in transforms.json to 0.001" in problem
    source = {"class_path": "mvdiff.data.tum.TumRecording", "init_args": {"depth_units_per_metre": 1000}}
    problem = scene_agreement(open_recording(walks["tum"], Source.of(source))).problem
    assert "set depth_units_per_metre to 5000: class_path mvdiff.data.tum.TumRecording" in problem


def test_key_frames_are_not_written_unless_forced(copied, capsys):
    scene = copied(pose=lambda pose: pose @ FLIP)
    for name in ("key_frame_0.6.txt", "valid_frames.npy"):
        (scene / name).unlink()
    assert main(["data", "keyframes", str(scene)]) == 1
    assert "depths and poses disagree (its depths contradict each other" in capsys.readouterr().out
    assert not (scene / "key_frame_0.6.txt").exists()
    assert main(["data", "keyframes", str(scene), "--force"]) == 0
    assert "; written despite " in capsys.readouterr().out
    assert (scene / "key_frame_0.6.txt").exists()
    assert main(["data", "keyframes", str(scene)]) == 1  # lists that exist do not hide it


def test_training_does_not_start_on_them(copied, caplog):
    root = copied("train/a").parents[1]
    copied("train/b")
    copied("train/wrong", pose=np.linalg.inv)
    settings = {"height": 24, "width": 32, "num_views": 3, "min_frames": 2, "val_from": "test"}
    copied("test/d")
    with pytest.raises(ValueError, match=r"train/wrong: depths and poses disagree .*camera-from-world"):
        RecordingDataModule(root, **settings).setup("fit")
    with caplog.at_level("INFO", logger="mvdiff"):
        skipping = RecordingDataModule(root, on_broken="skip", **settings)
        skipping.setup("fit")
    assert [scene.name for scene in skipping.train_dataset().scenes] == ["a", "b"]
    assert "pairs of frames of 3 of 3 scenes: 1 disagree" in caplog.text
    assert "1 scenes are left out" in caplog.text
    anyway = RecordingDataModule(root, check_agreement=False, **settings)
    anyway.setup("fit")
    assert len(anyway.train_dataset().scenes) == 3


@pytest.mark.parametrize("wrong", [1, 3])
def test_every_command_holds_out_the_same_scenes(copied, wrong):
    for number in range(4):
        copied(f"train/{number}", pose=np.linalg.inv if number == wrong else lambda pose: pose)
    root = copied("train/4").parents[1]
    settings = {"num_views": 3, "min_frames": 2, "num_val": 2, "on_broken": "skip"}
    fit, validate = (RecordingDataModule(root, 24, 32, **settings) for _ in range(2))
    fit.setup("fit")
    trained, held_out = ({scene.name for scene in made.scenes} for made in (fit.train_dataset(), fit.val_dataset()))
    validated = {scene.name for scene in validate.val_dataset().scenes}
    assert validated == {"3", "4"}
    assert held_out == validated - {str(wrong)}
    assert trained == {"0", "1", "2"} - {str(wrong)}


class _Unreadable(ScanNetScene):
    error = PermissionError

    def load_image(self, frame):
        raise self.error(f"{self.path} cannot be read")


class _Faulty(_Unreadable):
    error = KeyError


class _Strategy:
    """A strategy of two processes: it keeps what the first sends to the other."""

    def broadcast(self, sent, src=0):
        self.sent = sent
        return sent


@pytest.mark.parametrize("reader", [_Unreadable, _Faulty])
def test_a_failure_in_the_first_process_reaches_the_others(copied, reader, caplog):
    root = copied("train/a").parents[1]
    copied("test/b")
    source = f"{__name__}.{reader.__name__}"
    data = RecordingDataModule(root, 24, 32, num_views=3, min_frames=2, val_from="test", source=source)
    data.trainer = SimpleNamespace(is_global_zero=True, strategy=_Strategy())
    if reader is _Unreadable:  # training names the file when it needs it
        data.setup("fit")
        assert "a cannot be read" in caplog.text
        assert data.trainer.strategy.sent == ([], None)
    else:
        with pytest.raises(ValueError, match="must be readable to compare their depths and poses; got KeyError"):
            data.setup("fit")
        assert data.trainer.strategy.sent[1].startswith("KeyError")


def test_training_only_warns_of_colours(copied, caplog):
    scene = copied("train/a", colour=lambda image: image.crop((6, 5, 42, 32)).resize((48, 36)))
    copied("test/b")
    data = RecordingDataModule(scene.parents[1], 24, 32, num_views=3, min_frames=2, val_from="test")
    with caplog.at_level("WARNING", logger="mvdiff"):
        data.setup("fit")
    assert f"{scene}: its poses do not align the colours" in caplog.text
    assert len(data.train_dataset().scenes) == 1


def test_colour_of_another_aspect_ratio_is_not_registered(copied, tmp_path, capsys):
    scene = copied(colour=lambda image: image.crop((0, 4, 48, 31)))
    text = "colour is 48x27, depth is 48x36: their aspect ratios differ"
    for arguments in (
        ["data", "check", str(scene)],
        ["data", "keyframes", str(scene), "--out", str(tmp_path / "out")],
        ["mesh", str(scene), "--out", str(tmp_path / "mesh.ply")],
    ):
        assert main(arguments) == 1
        shown = capsys.readouterr()
        assert text in shown.out + shown.err
        assert "colour is not registered to depth" in shown.out + shown.err
    with pytest.raises(ValueError, match=text):
        RecordingDataModule(tmp_path, num_views=3, val_from="test").train_dataset()


def test_colour_of_the_same_aspect_ratio_that_is_not_registered(copied, capsys):
    scene = copied(colour=lambda image: image.crop((6, 5, 42, 32)).resize((48, 36)))
    assert main(["data", "check", str(scene)]) == 1
    out = capsys.readouterr().out
    assert f"colours do not fit depths and poses: {scene} (its colour is not registered" in out
    assert "enlarged 1.4 times" in out


def test_65535_is_no_depth(copied, walks, capsys):
    def holes(values):
        values[8:20, 10:26] = 65535
        return values

    scene = copied(depth=holes)
    depths = open_recording(scene).stored_depths(0)
    assert (depths[8:20, 10:26] == 0).all()
    assert depths.max() < 10
    assert main(["data", "check", str(scene)]) == 0
    assert "24 x depth image with 65535, read as no depth" in capsys.readouterr().out
    assert main(["data", "check", str(walks["scannet"])]) == 0
    assert "65535" not in capsys.readouterr().out


def test_doubtful_depths_are_said(tmp_path, capsys):
    scene = write_scene(tmp_path / "room", num_frames=4, key_every=1)
    for frame in range(4):
        write_depth(scene, frame, np.full((24, 32), 40000))
    assert main(["data", "check", str(scene)]) == 0
    warning = "half of its depths lie beyond 40 m; is the unit of its depth images right (read as 1000 units a metre)?"
    assert f"warning: doubtful depth: {scene} ({warning})" in capsys.readouterr().out


@pytest.mark.parametrize("command", [["check"], ["keyframes", "--overwrite"]])
def test_a_scene_without_usable_frames_is_said(tmp_path, capsys, command):
    scene = write_scene(tmp_path / "room", num_frames=3, key_every=None)
    (scene / "key_frame_0.6.txt").write_text("0\n")
    for path in (scene / "pose").iterdir():
        path.write_text("-inf " * 16)
    assert main(["data", command[0], str(scene), *command[1:]]) == 1
    out = capsys.readouterr().out
    said = {"check": f"no usable frame: {scene} (3 x pose is not finite)", "keyframes": "no frame is usable"}
    assert said[command[0]] in out
