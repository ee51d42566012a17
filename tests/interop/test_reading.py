"""Files of any origin: nothing in them is run; foreign objects beside the weights are left out and named."""

import argparse
import io
import os
import pickle
import random
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from mvdiff.interop.reading import read_lightning_file


class Commands:
    """An object whose pickle runs a command when it is opened with pickle."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


class Foreign:
    """A callback's state, say."""

    def __init__(self):
        self.values = [1, {"a": Path("x")}]


def weights():
    base = torch.randn(6, 4)
    return OrderedDict(
        whole=base,
        transposed=base.T,
        part=base[2:5, 1],
        shared=base[0],
        half=torch.randn(3).half(),
        brain=torch.randn(3).bfloat16(),
        ids=torch.arange(5),
        flag=torch.tensor([True, False]),
        scalar=torch.tensor(2.5),
        empty=torch.zeros(0, 3),
        parameter=torch.nn.Parameter(torch.randn(2, 2)),
    )


def saved(path, values, **settings):
    torch.save(values, path, **settings)
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_tensors_come_as_they_were_saved(tmp_path, protocol):
    state = weights()
    content = read_lightning_file(saved(tmp_path / "a.ckpt", {"state_dict": state}, pickle_protocol=protocol))
    assert list(content.state) == list(state)
    for name, value in state.items():
        assert content.state[name].dtype == value.dtype
        assert torch.equal(content.state[name], value), name
    assert (content.entries, content.ignored) == ((), ())
    module = torch.nn.Linear(3, 2)
    content = read_lightning_file(saved(tmp_path / "b.ckpt", module.state_dict()))  # has metadata
    assert torch.equal(content.state["weight"], module.weight)


@pytest.mark.parametrize("protocol", [2, 4])
def test_foreign_objects_are_left_out_and_named(tmp_path, protocol):
    path = saved(
        tmp_path / "a.ckpt",
        {
            "state_dict": weights(),
            "epoch": 3,
            "hyper_parameters": argparse.Namespace(lr=1e-4, path=Path("x")),
            "callbacks": {Foreign: Foreign(), "best": np.float64(1.0), "history": np.arange(3), "kinds": {1, 2}},
            "lr_schedulers": [OrderedDict(a=np.int64(1))],
        },
        pickle_protocol=protocol,
    )
    content = read_lightning_file(path)
    assert torch.equal(content.state["ids"], torch.arange(5))
    assert content.entries == ("callbacks", "epoch", "hyper_parameters", "lr_schedulers")
    named = {"argparse.Namespace", f"{__name__}.Foreign", "numpy.dtype", "numpy.ndarray"}
    assert named <= set(content.ignored)


def test_a_command_in_the_file_does_not_run(tmp_path):
    marker = tmp_path / "ran"
    command = Commands(f"touch {marker}")
    path = saved(tmp_path / "a.ckpt", {"state_dict": weights(), "callbacks": command})
    content = read_lightning_file(path)
    assert f"{os.system.__module__}.system" in content.ignored
    assert not marker.exists()
    torch.load(path, weights_only=False)  # the file is a real attack
    assert marker.exists()


def test_a_command_in_the_place_of_a_weight_is_refused(tmp_path):
    marker = tmp_path / "ran"
    path = saved(tmp_path / "a.ckpt", {"state_dict": {"a": torch.zeros(1), "b": Commands(f"touch {marker}")}})
    with pytest.raises(
        ValueError, match=r"must have only plain tensors; got <\w+.system, not loaded> as 'b', in .*do not use"
    ):
        read_lightning_file(path)
    path = saved(tmp_path / "b.ckpt", {"state_dict": Commands(f"touch {marker}")})
    with pytest.raises(ValueError, match=r"with a state_dict; got _Dict, in|with a state_dict; got dict, in"):
        read_lightning_file(path)
    path = saved(tmp_path / "c.ckpt", Commands(f"touch {marker}"))
    with pytest.raises(ValueError, match=r"with a state_dict; got <\w+.system, not loaded>"):
        read_lightning_file(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("m._extra_state", {"version": 3}, "_Dict|dict"),
        ("phase", torch.zeros(2, dtype=torch.complex64), "<a tensor without a storage, not loaded>"),
        (
            "small",
            torch.zeros(2).to(torch.float8_e4m3fn),
            "<torch._utils._rebuild_tensor_v[23], not loaded>|.*storage.*",
        ),
        ("sparse", torch.eye(2).to_sparse(), "<torch._utils._rebuild_sparse_tensor, not loaded>"),
        ("count", 3, "int"),
    ],
)
def test_a_harmless_entry_that_is_no_plain_tensor_is_named_and_not_blamed(tmp_path, name, value, kind):
    path = saved(tmp_path / "a.ckpt", {"state_dict": {"a": torch.zeros(1), name: value}})
    with pytest.raises(ValueError, match=f"must have only plain tensors; got ({kind}) as '{name}', in") as error:
        read_lightning_file(path)
    assert str(error.value).endswith("save it again with that entry as a plain tensor, or without it.")


@pytest.mark.parametrize("entry", ["data.pkl", "data/0"])
def test_an_encrypted_archive_is_refused(tmp_path, entry):
    """Also where only numbers are encrypted, which are taken from the file as they stand."""
    path = saved(tmp_path / "a.ckpt", {"state_dict": {"a": torch.zeros(4)}})
    data = bytearray(path.read_bytes())
    central = data.index(b"PK\x01\x02")  # central headers come last; flags 8 bytes in, the name 46 bytes in
    while data[central + 46 :][: len(f"a/{entry}")] != f"a/{entry}".encode():
        central = data.index(b"PK\x01\x02", central + 1)
    data[central + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"must not be encrypted; got an encrypted a/{entry}, "):
        read_lightning_file(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, 1])
def test_an_archive_that_cannot_be_unpacked_is_one_clear_error(tmp_path, method):
    path = tmp_path / "a.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(100))
    data = bytearray(path.read_bytes())
    data[30 + len("a/data.pkl")] = 0xFF  # the first compressed byte: no kind of block
    data[8] = data[data.index(b"PK\x01\x02") + 10] = method  # 1: shrunk, which nobody reads today
    path.write_bytes(data)
    with pytest.raises(
        ValueError, match=r"checkpoint must not be compressed; got a compressed a/data\.pkl, in .*a\.ckpt"
    ):
        read_lightning_file(path)


def with_pickle(path, data, **entries):
    """A torch file with a pickle written by hand."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        for name, value in entries.items():
            archive.writestr(f"archive/data/{name}", value)
    return path


def calls(module, name, *arguments):
    """A pickle that calls module.name with arguments, and gives {'state_dict': result}."""
    inner = pickle.dumps(arguments, 2)[2:-1]
    return b"\x80\x02}U\nstate_dict" + f"c{module}\n{name}\n".encode() + inner + b"Rs."


@pytest.mark.parametrize(
    ("module", "name", "arguments"),
    [
        ("builtins", "eval", "open('MARKER', 'w')"),
        ("builtins", "exec", "open('MARKER', 'w')"),
        ("builtins", "open", ("MARKER", "w")),
        ("os", "mkdir", "MARKER"),
        ("subprocess", "check_output", (["touch", "MARKER"],)),
        ("torch", "load", "MARKER"),
        ("torch", "save", ({}, "MARKER")),
        ("torch._utils", "_rebuild_device_tensor_from_numpy", "MARKER"),
        ("mvdiff.interop.reading", "read_lightning_file", "MARKER"),
    ],
)
def test_no_function_is_called(tmp_path, module, name, arguments):
    marker = tmp_path / "ran"
    arguments = arguments if isinstance(arguments, tuple) else (arguments,)
    named = [_named(value, str(marker)) for value in arguments]
    path = with_pickle(tmp_path / "a.ckpt", calls(module, name, *named))
    with pytest.raises(ValueError, match=r"checkpoint must be a Lightning checkpoint|must be a readable pickle"):
        read_lightning_file(path)
    assert not marker.exists()


def _named(value, marker):
    if isinstance(value, list):
        return [_named(one, marker) for one in value]
    return value.replace("MARKER", marker) if isinstance(value, str) else value


def tensor_pickle(numel, offset, shape, stride):
    """A pickle of one tensor over storage 0."""
    buffer, storage = io.BytesIO(), Foreign()

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing):
            return ("storage", torch.FloatStorage, "0", "cpu", numel) if thing is storage else None

        def reducer_override(self, thing):
            if isinstance(thing, Foreign):
                return torch._utils._rebuild_tensor_v2, (storage, offset, shape, stride, False, {})
            return NotImplemented

    Pickler(buffer, 2).dump({"state_dict": {"a": Foreign()}})
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("numel", "offset", "shape", "stride"),
    [
        (4, 0, (5,), (1,)),  # beyond the storage
        (4, 2, (3,), (1,)),
        (4, 0, (2, 2), (3, 1)),
        (400, 0, (4,), (1,)),  # a storage beyond its entry
        (4, -1, (4,), (1,)),
        (4, 0, (4,), (-1,)),
        (4, 0, (4,), (1, 1)),
        (4, 0, (4.0,), (1,)),
    ],
)
def test_a_tensor_reaches_nothing_beyond_its_storage(tmp_path, numel, offset, shape, stride):
    path = with_pickle(tmp_path / "a.ckpt", tensor_pickle(numel, offset, shape, stride), **{"0": bytes(16)})
    with pytest.raises(
        ValueError, match=r"checkpoint must be complete; got too few bytes of 'a'|must have only plain tensors"
    ):
        read_lightning_file(path)
    good = with_pickle(tmp_path / "b.ckpt", tensor_pickle(4, 0, (4,), (1,)), **{"0": bytes(16)})
    assert read_lightning_file(good).state["a"].tolist() == [0.0] * 4


def test_a_pickle_cannot_change_what_it_was_given(tmp_path):
    """BUILD puts state into an object: none may reach a described tensor, or the functions that make one."""
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n"
    for data in (
        b"\x80\x02" + rebuild + b"}U\x05_make" + b"cposix\nsystem\n" + b"sb.",
        b"\x80\x02" + rebuild + b"N}U\x05_make" + b"cposix\nsystem\n" + b"s\x86b.",
        b"\x80\x02ccollections\nOrderedDict\n}U\x05itemscposix\nsystem\nsb.",
    ):
        path = with_pickle(tmp_path / "a.ckpt", data)
        with pytest.raises(ValueError, match="must be a readable pickle"):
            read_lightning_file(path)
    data = tensor_pickle(4, 0, (4,), (1,))
    changed = data[: data.rindex(b"s")] + b"}U\x06offsetK\x7fsb" + data[data.rindex(b"s") :]
    path = with_pickle(tmp_path / "b.ckpt", changed, **{"0": bytes(16)})
    with pytest.raises(ValueError, match="must be a readable pickle"):
        read_lightning_file(path)


def test_a_damaged_pickle_is_an_error_or_the_weights(tmp_path):
    whole = saved(tmp_path / "whole.ckpt", {"state_dict": {"a": torch.arange(6.0)}, "kinds": {1, 2}})
    with zipfile.ZipFile(whole) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    rng, refused = random.Random(0), 0
    for _ in range(300):
        data = bytearray(entries["whole/data.pkl"])
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(data))
            data[place : place + rng.randint(0, 2)] = rng.choice(
                [b"", b"R", b"b", b"s", b"\x85", bytes([rng.randrange(256)])]
            )
        with zipfile.ZipFile(tmp_path / "a.ckpt", "w") as archive:
            for name, value in entries.items():
                archive.writestr(name, bytes(data) if name.endswith("data.pkl") else value)
        try:
            state = read_lightning_file(tmp_path / "a.ckpt").state
        except ValueError:
            refused += 1
            continue
        assert all(value.untyped_storage().nbytes() <= 24 for value in state.values())
    assert 200 < refused < 300
    # A memo as long as five bytes say: 2^32 places. It must not be made.
    bomb = b"\x80\x02}r\xff\xff\xff\xff."
    with pytest.raises(ValueError, match="with a state_dict; got dict"):
        read_lightning_file(with_pickle(tmp_path / "bomb.ckpt", bomb))


def test_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"checkpoint must be an existing file; got .*none\.ckpt"):
        read_lightning_file(tmp_path / "none.ckpt")
    old = saved(tmp_path / "old.ckpt", {"state_dict": weights()}, _use_new_zipfile_serialization=False)
    with pytest.raises(
        ValueError, match=r"must be a zip archive, as torch.save writes since torch 1.6; got another kind"
    ):
        read_lightning_file(old)
    (tmp_path / "page.ckpt").write_text("<html>not found</html>")
    with pytest.raises(ValueError, match="download it again"):
        read_lightning_file(tmp_path / "page.ckpt")
    whole = saved(tmp_path / "whole.ckpt", {"state_dict": weights()})
    (tmp_path / "cut.ckpt").write_bytes(whole.read_bytes()[:-300])
    with pytest.raises(ValueError, match=r"must be a whole file; got one whose end is missing, in .*cut\.ckpt"):
        read_lightning_file(tmp_path / "cut.ckpt")
    with zipfile.ZipFile(tmp_path / "other.ckpt", "w") as archive:
        archive.writestr("a.txt", "a")
    with pytest.raises(ValueError, match=r"must have one data\.pkl.*; got 0"):
        read_lightning_file(tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="with a state_dict; got list"):
        read_lightning_file(saved(tmp_path / "list.ckpt", [1, 2]))
    with pytest.raises(ValueError, match="must be a readable pickle; got"):
        read_lightning_file(with_pickle(tmp_path / "bad.ckpt", b"\x80\x02not a pickle"))


def test_compressed_and_unaligned_archives(tmp_path):
    state = weights()
    whole = saved(tmp_path / "whole.ckpt", {"state_dict": state})
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        again = tmp_path / f"{method}.ckpt"
        with zipfile.ZipFile(whole) as old, zipfile.ZipFile(again, "w", method) as new:
            for name in old.namelist():
                new.writestr(name, old.read(name))
        if method == zipfile.ZIP_STORED:  # without torch's alignment
            content = read_lightning_file(again)
            assert all(torch.equal(content.state[name], value) for name, value in state.items())
        else:
            with pytest.raises(ValueError, match="checkpoint must not be compressed"):
                read_lightning_file(again)


def test_a_changed_byte_in_a_weight_is_found(tmp_path):
    """Torch itself takes such a file for whole."""
    state = {"a": torch.full((4,), 1.02)}
    path = saved(tmp_path / "a.ckpt", {"state_dict": state})
    data = bytearray(path.read_bytes())
    data[data.index(state["a"].numpy().tobytes()) + 3] ^= 0x7F  # the exponent: 1.02 becomes 4.08
    path.write_bytes(bytes(data))
    assert torch.load(path)["state_dict"]["a"][0] == pytest.approx(4.08)
    with pytest.raises(ValueError, match=r"got .*data/0 with another CRC-32, in .*a\.ckpt"):
        read_lightning_file(path)
