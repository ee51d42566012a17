"""Small files that claim to be large: refused before the memory or the disk is taken."""

import json
import pickle
import struct
import zipfile
import zlib

import numpy as np
import pytest
import torch

from mvdiff.data.prepare.sens import import_sens
from mvdiff.data.prepare.split import unpack_archives
from mvdiff.eval.features import ToyFeatureNet
from mvdiff.interop.reading import read_lightning_file
from mvdiff.models.backbone import load_backbone
from mvdiff.models.loading import check_archive
from mvdiff.pipelines.checkpoint import read_checkpoint
from mvdiff.pipelines.model_folder import load_adapter, load_scheduler
from tests.data.prepare.test_sens import write_sens
from tests.files.kinds import KINDS
from tests.files.mutation import Memory

LIMIT = 64 << 20


@pytest.fixture
def little_memory():
    """Measure the test, and fail it where it took more than `LIMIT`."""
    before = Memory.start()
    yield
    assert Memory.taken(before) < LIMIT


def zeros(num_bytes: int) -> bytes:
    """Compress many zeros without ever holding them."""
    stream, block = zlib.compressobj(9), bytes(1 << 20)
    return b"".join(stream.compress(block) for _ in range(num_bytes >> 20)) + stream.flush()


def test_a_depth_image_of_a_recording_is_no_larger_than_its_header_says(tmp_path, little_memory, monkeypatch):
    stream = zeros(96 << 20)
    monkeypatch.setattr("tests.data.prepare.test_sens.zlib.compress", lambda _: stream)
    path = write_sens(tmp_path / "a.sens", num_frames=1)
    with pytest.raises(ValueError, match=r"a\.sens .*breaks in frame 0: depth is more than 2 x \d+ x \d+ bytes"):
        import_sens(path, tmp_path / "scene")


@pytest.mark.parametrize("size", [(0, 3), (3, 1 << 31), (1 << 32) - 1])
def test_sizes_of_a_recording_are_bounded(tmp_path, size):
    path = write_sens(tmp_path / "a.sens", num_frames=1, depth_size=size if isinstance(size, tuple) else (size, size))
    with pytest.raises(ValueError, match=r"depth (width|height) must be from 1 to 16384 pixels; got .*a\.sens"):
        import_sens(path, tmp_path / "scene")


def test_depth_units_of_a_recording_are_finite(tmp_path):
    with pytest.raises(ValueError, match=r"depth units per metre must be positive; got inf, in .*a\.sens"):
        import_sens(write_sens(tmp_path / "a.sens", units=float("inf")), tmp_path / "scene")


def test_an_archive_of_faces_unpacks_to_its_own_size(tmp_path, little_memory):
    (tmp_path / "room").mkdir()
    path = tmp_path / "room" / "matterport_skybox_images.zip"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
        archive.open("room/matterport_skybox_images/a_skybox0_sami.jpg", "w") as face,
    ):
        for _ in range(96):
            face.write(bytes(1 << 20))
    with pytest.raises(ValueError, match=r"images\.zip must be an archive of JPEG faces; .* unpacks to 100663296"):
        unpack_archives(tmp_path)
    assert not list(tmp_path.rglob("*.jpg"))


@pytest.mark.parametrize("damage", ["stream", "directory", "cut"])
def test_a_damaged_archive_of_faces_is_named_and_leaves_nothing(tmp_path, damage):
    KINDS["archive of faces"].write(tmp_path / "a")
    path = tmp_path / "a" / KINDS["archive of faces"].file
    content = bytearray(path.read_bytes())
    if damage == "stream":
        content[120:130] = b"\xff" * 10
    elif damage == "directory":
        content[content.rindex(b"PK\x01\x02") + 42] ^= 0x55  # the place of the last face
    path.write_bytes(content[:-30] if damage == "cut" else content)
    with pytest.raises(ValueError, match=r"images\.zip must be a whole zip file"):
        unpack_archives(tmp_path / "a")
    assert not list(tmp_path.rglob("*.jpg"))


def torch_file(path, pickled: bytes, compression=zipfile.ZIP_STORED, numbers: bytes = bytes(8)):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", numbers)
    return path


READERS = (read_checkpoint, read_lightning_file)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    "pickled",
    [
        pickle.PROTO + b"\x05" + pickle.BYTEARRAY8 + struct.pack("<Q", 1 << 30) + b".",
        pickle.PROTO + b"\x04" + pickle.BINBYTES8 + struct.pack("<Q", 1 << 30) + b".",
        pickle.PROTO + b"\x02" + pickle.NONE + pickle.LONG_BINPUT + struct.pack("<I", (1 << 32) - 1) + b".",
        b"(" * 20_000 + b".",
        b"]" * 20_000 + b"a" * 19_999 + b".",
        b"",
    ],
)
def test_pickles_of_checkpoints_allocate_nothing_that_they_do_not_hold(tmp_path, little_memory, read, pickled):
    path = torch_file(tmp_path / "a.ckpt", pickled)
    with pytest.raises(ValueError, match=r"checkpoint.* in .*a\.ckpt"):
        read(path)


@pytest.mark.parametrize("read", READERS)
def test_compressed_checkpoints_are_refused_before_they_are_unpacked(tmp_path, little_memory, read):
    path = torch_file(tmp_path / "a.ckpt", bytes(96 << 20), zipfile.ZIP_DEFLATED)
    Memory.start()  # writing it took memory, reading it must not
    with pytest.raises(ValueError, match=r"checkpoint must not be compressed; got .*data\.pkl, in .*a\.ckpt"):
        read(path)


def test_entries_of_a_checkpoint_fit_into_it(tmp_path):
    torch.save({"state_dict": {"a": torch.zeros(4000)}}, tmp_path / "a.ckpt")
    content = bytearray((tmp_path / "a.ckpt").read_bytes())
    entry = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 4)
    content[entry + 20 : entry + 28] = struct.pack("<II", 1 << 30, 1 << 30)
    (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises(ValueError, match=r"promise \d+ bytes, and it has \d+, in .*a\.ckpt"):
        check_archive(tmp_path / "a.ckpt")


def test_a_few_numbers_do_not_stand_for_many(tmp_path):
    torch.save({"a": torch.zeros(1).expand(1 << 40)}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"got too few bytes of 'a', in .*a\.ckpt"):
        read_lightning_file(tmp_path / "a.ckpt")


def test_files_from_before_torch_1_6_are_refused(tmp_path):
    torch.save({"state_dict": {"a": torch.zeros(3)}}, tmp_path / "a.ckpt", _use_new_zipfile_serialization=False)
    for read in READERS:
        with pytest.raises(ValueError, match=r"checkpoint must be a zip archive.* in .*a\.ckpt"):
            read(tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    ("name", "read", "key", "value"),
    [
        ("feature network", ToyFeatureNet.from_pretrained, "width", 4096),
        ("feature network", ToyFeatureNet.from_pretrained, "num_features", 1 << 24),
        ("adapter's config.json", load_adapter, "mid_channels", 16384),
        ("base's unet/config.json", load_backbone, "block_out_channels", [8192, 8192]),
        ("base's vae/config.json", load_backbone, "block_out_channels", [4096, 4096, 8192]),
        ("base's text_encoder/config.json", load_backbone, "intermediate_size", 1 << 24),
        ("scheduler_config.json", load_scheduler, "num_train_timesteps", 1 << 40),
        ("base's scheduler/scheduler_config.json", load_backbone, "num_train_timesteps", 1 << 40),
    ],
)
def test_configs_do_not_describe_more_than_the_weights_hold(tmp_path, name, read, key, value):
    kind = KINDS[name]
    kind.write(tmp_path / "a")
    kind.read(tmp_path / "a")
    path = tmp_path / "a" / kind.file
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    before = Memory.start()
    with pytest.raises(ValueError, match=f"weights must match|{key}|size mismatch") as caught:
        read(tmp_path / "a")
    assert str(tmp_path / "a") in str(caught.value)
    assert Memory.taken(before) < LIMIT


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("beta_start", float("nan")),
        ("beta_start", "x"),
        ("timestep_spacing", []),
        ("trained_betas", "x"),
        ("prediction_type", "none"),
        ("num_train_timesteps", 0),
        ("num_train_timesteps", True),
    ],
)
def test_settings_of_a_scheduler_are_tried_when_it_is_opened(tmp_path, key, value):
    KINDS["scheduler_config.json"].write(tmp_path / "a")
    path = tmp_path / "a" / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    numbers = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    with pytest.raises(ValueError, match=r"scheduler_config\.json"):
        load_scheduler(tmp_path / "a")
    assert numbers == (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
