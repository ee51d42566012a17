"""`mvdiff evaluate --protocol`, in-process, over real folders."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mvdiff.cli.main import main
from mvdiff.eval.protocol_files import read_protocol
from tests.eval.conforming import RECORDED, write_protocol
from tests.eval.worlds import write_samples


class World:
    """Generated samples that conform to the small protocol, and their reference."""

    def __init__(self, root: Path, capsys) -> None:
        self.root, self.capsys, self.out = root, capsys, root / "results.json"
        self.generated = write_samples(root / "generated", noise=0.2, **RECORDED)
        for path in self.generated.rglob("sample.json"):
            self.edit(path, seed=5)
        self.reference = write_samples(root / "reference")

    @staticmethod
    def edit(path: Path, settings=None, **changes) -> None:
        values = json.loads(path.read_text())
        values |= changes
        values["settings"] |= settings or {}
        path.write_text(json.dumps(values))

    def evaluate(self, *words: str, protocol: Path | None = None, reference=True) -> tuple[int, str]:
        """Run the command; return its exit status and all that it printed."""
        named = ["--protocol", str(protocol or write_protocol(self.root / "mine.yaml"))]
        named += ["--reference", str(self.reference)] if reference else []
        arguments = ["--generated", str(self.generated), "--out", str(self.out), "--num_workers", "0"]
        try:
            status = main(["evaluate", *arguments, *named, *words])
        except SystemExit as stopped:
            status = stopped.code
        printed = self.capsys.readouterr()
        return status, printed.out + printed.err

    def results(self) -> dict:
        return json.loads(self.out.read_text())


@pytest.fixture
def world(tmp_path, capsys):
    return World(tmp_path, capsys)


def test_samples_that_conform(world):
    status, text = world.evaluate("--strict")
    assert status == 0, text
    protocol, results = read_protocol(world.root / "mine.yaml"), world.results()
    assert results["schema_version"] == 2
    assert results["protocol"] == {"id": "mine", "hash": protocol.hash(), "values": protocol.values()}
    assert results["deviations"] == results["left_out"] == []
    assert results["unchecked"] == ["data.split (test): a folder does not record its split; --config sets it"]
    assert results["settings"]["num_resamples"] == 20
    assert set(results["metrics"]) >= {"overlap_psnr_pooled", "sharpness_gradient_energy"}
    assert f"protocol mine ({protocol.hash()[:12]})\n" in text


@pytest.mark.parametrize(
    ("side", "changes", "line"),
    [
        ("generated", {"settings": {"guidance_scale": 9.0}}, "sampling.guidance_scale must be 2.0; got '9.0' in 1 "),
        ("generated", {"settings": {"num_inference_steps": 50}}, "sampling.num_inference_steps must be 3; got '50'"),
        ("generated", {"settings": {"prompt_prefix": "x "}}, "sampling.prompt_prefix must be ''; got 'x '"),
        ("generated", {"settings": {"dtype": "bfloat16"}}, "sampling.precision must be 'float32'; got 'bfloat16'"),
        ("generated", {"settings": {"scheduler": "DDPM"}}, "sampling.scheduler must be 'DDIMScheduler'; got 'DDPM'"),
        ("generated", {"settings": {"eta": 1.0}}, "sampling.eta must be 0.0; got '1.0'"),
        ("generated", {"settings": {"negative_prompt": "fog"}}, "sampling.negative_prompt must be ''; got 'fog'"),
        ("generated", {"seed": 6}, "sampling.seed must be 5; got '6' in 1 generated samples: s1"),
        (
            "reference",
            {"sample_id": "room"},
            "data.ids must be 's\\\\d+'; got 'another id' in 1 reference samples: room",
        ),
    ],
)
def test_a_deviation_is_printed_and_stored_and_fails_a_strict_run(world, side, changes, line):
    world.edit(getattr(world, side) / "s1" / "sample.json", **changes)
    status, text = world.evaluate()
    assert status == 0
    assert f"deviation: {line}" in text
    [found] = [one for one in world.results()["deviations"] if one.startswith(line)]
    status, text = world.evaluate("--strict")
    assert status == 3
    assert found in text.split("--strict finds")[1]


def test_a_setting_that_is_not_recorded_deviates_and_images_without_seed_are_not_checked(world):
    for number in range(4):
        path = world.generated / f"s{number}" / "sample.json"
        values = json.loads(path.read_text())
        del values["settings"]["guidance_scale"]
        path.write_text(json.dumps(values))
    status, text = world.evaluate()
    assert "guidance_scale must be 2.0; got 'not recorded' in 4 generated samples: s0, s1, s2, s3" in text
    for number in range(4):
        world.edit(world.generated / f"s{number}" / "sample.json", seed=None)
    status, text = world.evaluate("--strict")
    assert status == 0
    line = "sampling: 4 of 4 samples record no seed, as real and imported images do"
    assert f"not checked: {line}" in text
    assert line in world.results()["unchecked"]


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({"images__num_samples": 5}, ["images.num_samples must be 5; got 4"]),
        ({"images__num_reference_samples": 3}, ["images.num_reference_samples must be 3; got 4"]),
        ({"task": "depth"}, ["task must be 'depth'; got 'panorama' in 4 generated", "task must be 'depth'; got"]),
        (
            {"images__height": 24},
            ["images.height must be 24; got '12' in 4 generated", "images.height must be 24; got"],
        ),
        ({"data__yaw": 45}, ["images.rig must be that of 8 views; got 'other cameras' in 4 generated", "images.rig"]),
        ({"data__prompts_hash": "00"}, ["data.prompts_hash must be 00...; got "]),
        ({"intervals": {"none_below": 5}}, ["intervals.none_below must be 5; this version of mvdiff has 8"]),
        ({"intervals": {"level": 0.9}}, ["intervals.level must be 0.9; this version of mvdiff has 0.95"]),
        (
            {"numbers__overlap_psnr_pooled__model": "depth"},
            ["numbers.overlap_psnr_pooled.model must be depth; got homography"],
        ),
        (
            {"settings__overlap_pairs": "overlapping"},
            ["numbers.overlap_psnr_pooled.variant must be squared error"],
        ),
        ({"numbers": {"fid": {}}}, ["numbers.fid is not among the numbers of the metrics"]),
    ],
)
def test_values_that_the_samples_and_numbers_do_not_have(world, changes, lines):
    status, text = world.evaluate(protocol=write_protocol(world.root / "other.yaml", **changes))
    assert status == 0, text
    found = world.results()["deviations"]
    assert len(found) == len(lines), found
    assert all(one.startswith(line) for one, line in zip(found, lines, strict=True)), found


def test_a_missing_reference_is_a_deviation(world):
    status, text = world.evaluate("--strict", reference=False)
    assert status == 3
    assert "images.num_reference_samples must be 4; got 0" in text


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--num_resamples", "1000"], "--num_resamples must be that of --protocol mine, 20; got 1000"),
        (["--overlap_size=64"], "--overlap_size must be that of --protocol mine, 0; got 64"),
        (
            ["--metrics", "sharpness"],
            "--metrics must be that of --protocol mine, overlap_psnr, sharpness; got sharpness",
        ),
        (["--overlap_pairs", "[[0, 1]]"], "--overlap_pairs must be that of --protocol mine, adjacent; got"),
        (["--num_splits", "3"], "--num_splits is not used by overlap_psnr, sharpness"),
        (["--seed", "1"], "--seed must be that of --protocol mine, 0; got 1"),
    ],
)
def test_an_option_that_contradicts_is_refused_before_any_work(world, words, text):
    (world.generated / "s0" / "0.png").write_bytes(b"never read")
    status, printed = world.evaluate(*words)
    assert status == 2
    assert text in printed
    assert not world.out.exists()


def test_the_split_of_a_protocol(world):
    path = write_protocol(world.root / "train.yaml", data__split="train")
    words = ["evaluate", "--config", "pano.yaml", "--protocol", str(path), "--split", "test"]
    assert main(words) == 2
    assert "--split must be that of --protocol train, train; got test" in world.capsys.readouterr().err


def test_options_that_agree_or_change_no_number_are_free(world):
    words = ["--num_resamples", "20", "--metrics", "sharpness", "overlap_psnr", "--batch_size", "3", "--device", "cpu"]
    assert world.evaluate(*words, "--strict")[0] == 0


def test_a_protocol_that_leaves_a_setting_to_a_default(world):
    path = write_protocol(world.root / "other.yaml", metrics=["overlap_psnr", "sharpness", "toy_inception_score"])
    status, text = world.evaluate(protocol=path)
    assert status == 2
    assert "protocol other must give every setting of its metrics; it lacks num_splits (default: 10)" in text
    assert not world.out.exists()


def test_results_name_their_images_and_their_run(world):
    assert world.evaluate()[0] == 0
    results = world.results()
    lines = []
    for path in world.generated.glob("*/*.png"):
        pixels = np.array(Image.open(path).convert("RGB"))
        one = hashlib.sha256(b"%d %d\n" % pixels.shape[:2] + pixels.tobytes()).hexdigest()
        assert results["generated"]["images"][path.parent.name][int(path.stem)] == one
        lines.append(f"{path.parent.name}\t{path.stem}\t{one}\n")
    assert results["generated"]["num_images"] == len(lines) == 32
    assert results["generated"]["content_hash"] == hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()
    assert results["reference"]["content_hash"] != results["generated"]["content_hash"]
    run = results["run"]
    assert set(run) == {"commit", "versions", "device", "seconds", "command"}
    assert run["command"].startswith("mvdiff evaluate --generated .../generated --out .../results.json")
    assert str(world.root) not in run["command"]
    assert run["device"] == "cpu"
    assert run["seconds"] > 0
    assert run["versions"]["torch"]
    assert run["commit"] is None or re.fullmatch("[0-9a-f]{40}(-dirty)?", run["commit"])


def test_without_a_protocol_the_id_is_custom(world):
    words = ["evaluate", "--generated", str(world.generated), "--metrics", "sharpness", "--out", str(world.out)]
    assert main(words) == 0
    first = world.results()["protocol"]
    assert first["id"] == "custom"
    assert first["values"] == {"metrics": ["sharpness"], "settings": {"num_resamples": 1000, "seed": 0}}
    text = '{"metrics":["sharpness"],"settings":{"num_resamples":1000,"seed":0}}'
    assert first["hash"] == hashlib.sha256(text.encode()).hexdigest()
    assert main([*words, "--num_resamples", "10"]) == 0
    assert world.results()["protocol"]["hash"] != first["hash"]
    assert main([*words, "--batch_size", "3"]) == 0
    assert world.results()["protocol"] == first


def test_a_manifest_names_the_reference(world):
    protocol = write_protocol(world.root / "mine.yaml", data__manifest=True)
    manifest = world.root / "manifest.json"
    status, text = world.evaluate(protocol=protocol)
    assert status == 2
    assert "--protocol mine needs --manifest FILE" in text
    words = ("--manifest", str(manifest), "--strict")
    status, text = world.evaluate(*words, protocol=protocol)
    assert status == 0, text
    assert f"{manifest}: names 4 samples of the reference" in text
    written = json.loads(manifest.read_text())
    assert written["content_hash"] == world.results()["reference"]["content_hash"]
    assert written["images"] == world.results()["reference"]["images"]
    before = manifest.read_bytes()
    assert world.evaluate(*words, protocol=protocol)[0] == 0
    Image.fromarray(np.zeros((12, 12, 3), np.uint8)).save(world.reference / "s2" / "0.png")
    world.edit(world.reference / "s3" / "sample.json", sample_id="s9")
    status, text = world.evaluate(*words, protocol=protocol)
    assert status == 3
    lines = [line for line in world.results()["deviations"] if line.startswith(str(manifest))]
    assert lines == [
        f"{manifest}: the reference lacks 1 sample of the manifest: s3",
        f"{manifest}: the manifest lacks 1 sample of the reference: s9",
        f"{manifest}: 1 sample of the reference has other pixels than in the manifest: s2",
    ]
    assert all(f"deviation: {line}" in text for line in lines)
    assert manifest.read_bytes() == before


def test_no_manifest_is_written_of_a_reference_that_cannot_be_read(world):
    (world.reference / "s2" / "3.png").write_bytes(b"broken")
    manifest = world.root / "manifest.json"
    status, text = world.evaluate("--manifest", str(manifest), "--strict")
    assert status == 3
    assert f"{manifest}: not written, since samples of the reference cannot be read" in text
    assert not manifest.exists()


def test_a_file_that_is_no_manifest(world):
    for text in ("{}", '{"schema_version": 1, "images": {"a": [1]}}'):
        path = world.root / "other.json"
        path.write_text(text)
        status, printed = world.evaluate("--manifest", str(path))
        assert status == 1
        assert "a manifest must hold schema_version 1 and images" in printed
        assert path.read_text() == text
    words = ["evaluate", "--generated", str(world.generated), "--manifest", str(world.root / "m.json")]
    with pytest.raises(SystemExit):
        main(words)
    assert "--manifest names the reference and needs --reference or --config" in world.capsys.readouterr().err


def test_an_absolute_path_is_no_part_of_the_recorded_command(world):
    from mvdiff.eval.provenance import command_line

    assert command_line(["mvdiff", "a b", "--x=/y/z w", "~/q", "rel/p"]) == "mvdiff 'a b' '--x=.../z w' .../q rel/p"
