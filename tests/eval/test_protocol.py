"""Protocols: their hashes, and that every value of them sets or checks something."""

import copy
import hashlib
import json
from dataclasses import fields

import pytest
import yaml

from mvdiff.cli.main import main
from mvdiff.eval.checks import check_complete, taken_settings
from mvdiff.eval.deviations import deviations, sample_deviations, unchecked
from mvdiff.eval.metric_specs import parse_specs
from mvdiff.eval.metrics import metric_class
from mvdiff.eval.protocol import Protocol, apply_protocol, canonical_json, check_split, values_hash
from mvdiff.eval.protocol_files import protocol_from, protocol_ids, read_protocol
from mvdiff.eval.runner import evaluate, evaluate_each
from mvdiff.eval.settings import FREE, EvaluationSettings, SettingError
from tests.eval.conforming import (
    conforming_reference,
    conforming_results,
    conforming_sample,
    write_protocol,
)
from tests.eval.worlds import write_samples

GOLDEN = {
    "erp-v1": "6fb8628017dfdbf9080b77b63762dbb2cc305b78867bb88819e7e1f945b8bfe4",
    "mvdiffusion-depth-v1": "5a055f18e66ce0c5a1eb8f793012a0a5fa2b7e828b46a0636de32971edf04ebc",
    "mvdiffusion-pano-community-v1": "a0f14a6a8460fffd727f5a8d44bc6d530fd517d662a74c1b6260e5870f8bb1d9",
    "mvdiffusion-pano-v1": "34794fbf113c3af07eaa101bb57babf67ba329cc71881911e343e7d97e69f04d",
    "real-cpu-v1": "399e7c0fe8dd99a498391b9fefb7ddb14f388ded23d21e5ba7e87ea8828f72e3",
    "toy-depth-v1": "50bd5bdcc3b419c4e65e4359f08cd4b617af9e2e0853cb789805ed26d2819070",
    "toy-pano-v1": "4aecb502d83310e673c0ba506004d031928b97e41a05be493c54896da9b64a37",
}
"""A hash stands for a published table: whoever changes a value gives the protocol a new id."""


def leaves(values, prefix=()):
    """Return the paths of all values that are not mappings."""
    if isinstance(values, dict) and values:
        return [path for key, value in values.items() for path in leaves(value, (*prefix, key))]
    return [prefix]


def at(values, path):
    for key in path:
        values = values[key]
    return values


def changed(values, path):
    """Return values with another value of the same kind at one place."""
    values = copy.deepcopy(values)
    place, name = at(values, path[:-1]), path[-1]
    old = place[name]
    others = {
        "task": "outpaint" if old == "panorama" else "panorama",
        "split": "val",
        "ids": "another-.*",
        "prompts_hash": "123abc",
        "weights_hash": "123abc",
        "overlap_pairs": "overlapping",
        "judge_heads": ["walls"],
        "rig": [[1.0, 0.0, 90.0], *[[0.0, 0.0, 90.0]] * ((place.get("num_views") or 1) - 1)],
        "metrics": ["kid"],
    }
    if name in others:
        place[name] = others[name]
    elif isinstance(old, bool):
        place[name] = not old
    elif isinstance(old, int | float):
        place[name] = old + {"fid_resamples": 100}.get(name, 1) if name != "level" else 0.9
    elif old is None and (path[0] == "images" or name in ("seed", "num_inference_steps", "guidance_scale", "eta")):
        place[name] = 77
    elif isinstance(old, dict):  # an empty one
        place[name] = {"fid": {"model": "none"}}
    else:
        place[name] = f"{old}x"
    return values


def of(values, protocol: Protocol) -> Protocol:
    return protocol_from({"title": protocol.title, **values}, protocol.id)


def is_refused(values, protocol: Protocol) -> bool:
    try:
        of(values, protocol)
    except SettingError:
        return True
    return False


def found_by(protocol: Protocol, original: Protocol) -> list[str]:
    """Compare samples and results that conform to one protocol with another."""
    sample = conforming_sample(original)
    found = {
        side: {"a": sample_deviations(protocol, sample, side == "reference")} for side in ("generated", "reference")
    }
    return deviations(protocol, conforming_results(original), found, conforming_reference(original))


def test_hashes_are_pinned():
    assert {name: read_protocol(name).hash() for name in protocol_ids()} == GOLDEN


@pytest.mark.parametrize("name", protocol_ids())
def test_every_value_changes_the_hash_and_sets_or_checks_something(name):
    protocol = read_protocol(name)
    values = protocol.values()
    assert of(values, protocol) == protocol
    assert not found_by(protocol, protocol)
    assert protocol_from({**values, "title": "other words"}, name).hash() == protocol.hash()
    for path in leaves(values):
        dotted = ".".join(path)
        other = changed(values, path)
        if dotted in ("order", "data.yaw", "images.rig", "images.num_views") and is_refused(other, protocol):
            continue  # no other value is possible beside the rest
        other = of(other, protocol)
        assert other.hash() != protocol.hash(), dotted
        named = "images.rig" if dotted == "data.yaw" else dotted  # a turn shows in the cameras
        lines = [line for line in found_by(other, protocol) if line.startswith(named)]
        if dotted == "metrics":
            with pytest.raises(SettingError, match=r"--metrics"):
                apply_protocol(other, metrics=protocol.metrics)
        elif path[0] == "settings":
            key = path[1]
            assert getattr(apply_protocol(other), key) == other.settings[key] != protocol.settings[key]
        elif dotted == "data.split":
            assert lines == ["data.split must be val; got test"]
            with pytest.raises(SettingError, match=r"--split must be that of --protocol .*, val; got test"):
                check_split(other, "test", {"split"})
        elif dotted == "data.manifest":
            continue  # tests/cli/test_protocols.py
        elif dotted == "numbers":
            assert found_by(other, protocol) == ["numbers.fid is not among the numbers of the metrics"]
        else:
            assert lines, f"{dotted} neither sets nor checks anything"


@pytest.mark.parametrize("name", protocol_ids())
def test_metrics_resolve_and_take_exactly_the_settings(name):
    protocol = read_protocol(name)
    specs = parse_specs(protocol.metrics)
    assert set(taken_settings(specs)) <= set(protocol.settings)
    check_complete(protocol, specs)
    assert {column.name for metric in protocol.metrics for column in metric_class(metric).columns} == set(
        protocol.numbers
    )


def test_the_hash_is_that_of_canonical_json():
    text = '{"a":[1,2.5,null,true],"b":{"c":"ü \\"q\\"","d":9.0}}'
    values = {"b": {"d": 9.0, "c": 'ü "q"'}, "a": (1, 2.5, None, True)}
    assert canonical_json(values) == text
    assert values_hash(values) == hashlib.sha256(text.encode("utf-8")).hexdigest()
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"a": float("nan")})


def test_values_hold_every_field_with_its_default(tmp_path):
    protocol = read_protocol(write_protocol(tmp_path / "mine.yaml"))
    assert protocol.id == "mine"
    values = protocol.values()
    assert values["intervals"] == {"level": 0.95, "none_below": 8, "bootstrap_from": 30}
    assert values["order"] == "sample_id"
    assert set(values) == {field.name for field in fields(Protocol)} - {"id", "title"}
    again = write_protocol(tmp_path / "again.yaml", intervals=values["intervals"], order="sample_id")
    assert read_protocol(again).hash() == protocol.hash()
    whole = write_protocol(tmp_path / "whole.yaml", sampling__guidance_scale=2.0, settings__overlap_depth_error=0.5)
    assert read_protocol(whole).hash() == protocol.hash()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"images__heigth": 12}, "images.heigth is not a field; there are num_samples"),
        ({"images__height": "12"}, "images.height must be a whole number; got '12'"),
        ({"images__height": 0}, "images.height must be at least 1; got 0"),
        ({"images__num_views": 7}, "images.num_views must be that of the rig, 8; got 7"),
        ({"images__rig": [[0, 0]]}, r"images.rig\[0\] must be a list of 3; got \[0, 0\]"),
        ({"images": [1]}, r"images must be fields and values; got \[1\]"),
        ({"task": "video"}, "task must be panorama or outpaint or depth; got 'video'"),
        ({"order": "name"}, "order must be sample_id; got 'name'"),
        ({"sampling__guidance_scale": True}, "sampling.guidance_scale must be a finite number; got True"),
        ({"sampling__eta": float("inf")}, "sampling.eta must be a finite number; got inf"),
        ({"data__ids": "("}, r"data.ids must be a regular expression; got '\('"),
        ({"data__split": "dev"}, "data.split must be train or val or test; got 'dev'"),
        ({"settings__device": "cpu"}, "settings must not hold device, which is the user's"),
        ({"settings__overlap": 1}, "settings must be among .*; got 'overlap'"),
        ({"settings__num_splits": 0}, "num_splits must be at least 1; got 0"),
        ({"settings__num_splits": "5"}, "settings.num_splits must be a whole number; got '5'"),
        ({"settings__overlap_pairs": [["a", "b"]]}, "settings must be options of mvdiff evaluate"),
        ({"settings__clip_model": 5}, "settings.clip_model must be a text or a list; got 5"),
        ({"metrics": []}, "metrics must be names"),
        ({"metrics": [{"class_path": "fid", "arguments": {}}]}, "metrics must be names"),
        ({"intervals": {"level": 1}}, "intervals must have 0 < level < 1"),
        ({"numbers": {"fid": {"weights_hash": "XY"}}}, "numbers.fid.weights_hash must be hex digits"),
        ({"id": "other"}, "id must be left out"),
    ],
)
def test_wrong_values_are_named_with_the_file(tmp_path, changes, text):
    path = write_protocol(tmp_path / "mine.yaml", **changes)
    with pytest.raises(SettingError, match=rf"{text}.*, in {path}\."):
        read_protocol(path)


def test_a_field_that_must_be_given(tmp_path):
    path = write_protocol(tmp_path / "mine.yaml")
    values = yaml.safe_load(path.read_text())
    del values["task"]
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(SettingError, match="task must be given; got nothing, in "):
        read_protocol(path)


def test_names_of_protocols(tmp_path):
    with pytest.raises(
        SettingError, match=r"protocol must be one of .*; got 'toy-pano' \(did you mean toy-pano-v1\?\)"
    ):
        read_protocol("toy-pano")
    with pytest.raises(SettingError, match=r"a protocol's file must end in \.yaml"):
        read_protocol(write_protocol(tmp_path / "mine.txt"))
    with pytest.raises(SettingError, match="must not be called custom"):
        read_protocol(write_protocol(tmp_path / "custom.yaml"))
    with pytest.raises(SettingError, match="a protocol with values of its own must have a name of its own"):
        read_protocol(write_protocol(tmp_path / "toy-pano-v1.yaml"))


def test_a_protocol_names_every_setting_of_its_metrics(tmp_path):
    values = yaml.safe_load(write_protocol(tmp_path / "mine.yaml").read_text())
    del values["settings"]["num_resamples"]
    specs = parse_specs(values["metrics"])
    with pytest.raises(SettingError, match=r"lacks num_resamples \(default: 1000\)"):
        check_complete(protocol_from(values, "mine"), specs)
    values["settings"] |= {"num_resamples": 100, "num_splits": 3}
    with pytest.raises(SettingError, match="settings of its metrics only; got num_splits"):
        check_complete(protocol_from(values, "mine"), specs)


def test_what_the_user_keeps(tmp_path):
    protocol = read_protocol("toy-pano-v1")
    own = EvaluationSettings(toy_features="features", truth="t.json", batch_size=3, device="cpu")
    applied = apply_protocol(protocol, own)
    assert {name: getattr(applied, name) for name in FREE} == {name: getattr(own, name) for name in FREE}
    assert applied.judge_heads == ["object", "colour"]
    with pytest.raises(SettingError, match=r"--num_splits must be that of --protocol toy-pano-v1, 10; got 5"):
        apply_protocol(protocol, EvaluationSettings(num_splits=5))
    with pytest.raises(SettingError, match=r"--overlap_pairs must be that of .*adjacent; got overlapping"):
        apply_protocol(protocol, EvaluationSettings(overlap_pairs="overlapping"))
    with pytest.raises(SettingError, match=r"--num_resamples must be that of"):  # typed, though it is the default
        apply_protocol(
            read_protocol(write_protocol(tmp_path / "mine.yaml")), EvaluationSettings(), typed={"num_resamples"}
        )
    paper = read_protocol("mvdiffusion-pano-v1")
    (tmp_path / "vit.safetensors").write_bytes(b"")
    weights = str(tmp_path / "vit.safetensors")  # a place of weights, unlike another tag
    assert (
        apply_protocol(paper, EvaluationSettings(clip_weights=weights), typed={"clip_weights"}).clip_weights == weights
    )
    with pytest.raises(SettingError, match=r"--clip_weights must be that of --protocol mvdiffusion-pano-v1, openai"):
        apply_protocol(paper, EvaluationSettings(clip_weights="laion400m_e32"))


def test_metrics_are_compared_whatever_their_order(tmp_path):
    protocol = read_protocol(write_protocol(tmp_path / "mine.yaml"))
    apply_protocol(protocol, metrics=[{"class_path": "sharpness"}, "overlap_psnr"])
    with pytest.raises(SettingError, match=r"--metrics must be that of .*, overlap_psnr, sharpness; got sharpness"):
        apply_protocol(protocol, metrics=["sharpness"])


def test_a_printed_protocol_is_a_protocol_file(tmp_path, capsys):
    assert main(["protocols"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, line in zip(protocol_ids(), lines, strict=True):
        protocol = read_protocol(name)
        assert line.split()[:2] == [name, protocol.hash()[:12]]
        assert line.endswith(protocol.title)
        assert main(["protocols", name]) == 0
        printed = capsys.readouterr().out
        assert f"# SHA-256 {protocol.hash()}\n" in printed
        (tmp_path / "mine.yaml").write_text(printed)
        assert read_protocol(tmp_path / "mine.yaml").hash() == protocol.hash()
        assert json.dumps(yaml.safe_load(printed)["settings"], sort_keys=True) == json.dumps(protocol.settings)


def test_protocols_are_listed_without_torch():
    import subprocess
    import sys

    code = """
import sys
from mvdiff.cli.main import main
assert main(["protocols"]) == 0 and main(["protocols", "erp-v1"]) == 0
assert not {"torch", "lightning"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_an_unknown_protocol_ends_with_status_2(capsys):
    assert main(["protocols", "erp-v2"]) == 2
    assert "did you mean erp-v1?" in capsys.readouterr().err


def test_methods_under_a_protocol_share_one_reference(tmp_path):
    protocol = read_protocol(write_protocol(tmp_path / "mine.yaml"))
    folders = {name: write_samples(tmp_path / name, num=num) for name, num in (("a", 4), ("b", 3))}
    reference = write_samples(tmp_path / "real")
    results = evaluate_each(folders, reference, protocol.metrics, None, protocol)
    assert results["a"]["deviations"] == []
    assert results["b"]["deviations"] == ["images.num_samples must be 4; got 3"]
    alone = evaluate(folders["a"], reference, protocol=protocol)
    assert alone["protocol"] == results["a"]["protocol"] == results["b"]["protocol"]
    assert alone["metrics"] == results["a"]["metrics"]


def test_weights_that_a_protocol_does_not_demand_are_said():
    protocol = read_protocol("mvdiffusion-pano-v1")
    lines = unchecked(protocol, conforming_results(protocol), {"a": 0})
    assert lines == ["numbers.clip_score.weights_hash is not demanded; the weights have 000000000000"]
