"""`mvdiff evaluate --protocol`, in-process, over real folders."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mvdiff.cli.main import main
from mvdiff.eval.protocol_files import read_protocol
from mvdiff.eval.provenance import code_name
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
    assert results["settings"]["num_resamples"] == 100
    assert set(results["metrics"]) >= {"overlap_psnr_pooled", "sharpness_gradient_energy"}
    assert f"protocol mine ({protocol.hash()[:12]})\n" in text


def test_deviations_are_printed_and_stored_and_fail_a_strict_run(world):
    settings = {"guidance_scale": 9.0, "num_inference_steps": 50, "prompt_prefix": "x ", "dtype": "bfloat16"}
    settings |= {"scheduler": "DDPM", "eta": 1.0, "negative_prompt": "fog"}
    world.edit(world.generated / "s1" / "sample.json", settings, seed=6)
    world.edit(world.generated / "s2" / "sample.json", {"guidance_scale": 9.0})
    world.edit(world.reference / "s1" / "sample.json", sample_id="room")
    status, text = world.evaluate()
    assert status == 0
    lines = [
        "sampling.seed must be 5; got '6' in 1 generated samples: s1",
        "sampling.num_inference_steps must be 3; got '50' in 1 generated samples: s1",
        "sampling.guidance_scale must be 2.0; got '9.0' in 2 generated samples: s1, s2",
        "sampling.eta must be 0.0; got '1.0' in 1 generated samples: s1",
        "sampling.negative_prompt must be ''; got 'fog' in 1 generated samples: s1",
        "sampling.prompt_prefix must be ''; got 'x ' in 1 generated samples: s1",
        "sampling.scheduler must be 'DDIMScheduler'; got 'DDPM' in 1 generated samples: s1",
        "sampling.precision must be 'float32'; got 'bfloat16' in 1 generated samples: s1",
        r"data.ids must be s\d+; got 'another id' in 1 reference samples: room",
    ]
    assert world.results()["deviations"] == lines
    assert "9 deviations\n" in text
    assert all(f"deviation: {line}\n" in text for line in lines)
    status, text = world.evaluate("--strict")
    assert status == 3
    assert all(line in text.split("--strict finds")[1] for line in lines)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timesteps", [900, 500, 100]),
        ("sigmas", [10.0, 1.0]),
        ("guidance_rescale", 0.7),
        ("clip_skip", 1),
        ("deep_cache", {"interval": 3, "depth": 1}),
        ("cache", "FirstBlockCacheConfig(threshold=0.2)"),
        ("freeu", {"s1": 0.9, "s2": 0.2, "b1": 1.5, "b2": 1.6}),
        ("vae_tiling", True),
    ],
)
def test_switches_that_no_protocol_has_deviate(world, name, value):
    world.edit(world.generated / "s1" / "sample.json", {name: value})
    status, text = world.evaluate("--strict")
    assert status == 3
    assert f"sampling.{name} must be left out; got '{value}' in 1 generated samples: s1" in text.replace('"', "'")


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


def test_one_text_for_a_whole_panorama_has_no_prefix_of_views(world):
    for number in range(4):
        world.edit(world.generated / f"s{number}" / "sample.json", {"prompt_prefix": None})
    path = write_protocol(world.root / "prefixed.yaml", sampling__prompt_prefix="one view: ")
    assert world.evaluate("--strict", protocol=path)[0] == 0
    world.edit(world.generated / "s0" / "sample.json", {"prompt_prefix": ""})
    status, text = world.evaluate("--strict", protocol=path)
    assert status == 3
    assert "sampling.prompt_prefix must be 'one view: '; got '' in 1 generated samples: s0" in text


def test_values_that_the_samples_and_numbers_do_not_have(world):
    changes = {
        "images__num_samples": 5,
        "images__num_reference_samples": 3,
        "images__height": 24,
        "task": "depth",
        "data__yaw": 45,
        "data__prompts_hash": "00",
        "intervals": {"none_below": 5, "level": 0.9},
        "settings__overlap_pairs": "overlapping",
        "numbers__overlap_psnr_mean_of_pairs": {"model": "depth"},
        "numbers__fid": {},
    }
    status, text = world.evaluate(protocol=write_protocol(world.root / "other.yaml", **changes))
    assert status == 0, text
    of_samples = ["images.height must be 24; got '12'", "task must be 'depth'; got 'panorama'"]
    of_samples += ["images.rig must be that of 8 views; got 'other cameras'"]
    names = "s0, s1, s2, s3"
    variant = "squared error pooled over all pixels; {} pairs; the images' own size; pixels whose warped mask is"
    wanted, got = (f"{variant.format(rule)} exactly one" for rule in ("adjacent", "overlapping"))
    assert sorted(world.results()["deviations"]) == sorted(
        [
            *(f"{line} in 4 {side} samples: {names}" for side in ("generated", "reference") for line in of_samples),
            "images.num_samples must be 5; got 4",
            "images.num_reference_samples must be 3; got 4",
            f"data.prompts_hash must be 00...; got {world.results()['generated']['prompts_hash'][:12]}: other prompts",
            "intervals.level must be 0.9; this version of mvdiff has 0.95",
            "intervals.none_below must be 5; this version of mvdiff has 8",
            "numbers.overlap_psnr_mean_of_pairs.model must be depth; got homography",
            f"numbers.overlap_psnr_pooled.variant must be {wanted}; got {got}",
            "numbers.fid is not among the numbers of the metrics",
        ]
    )


def test_a_missing_reference_is_a_deviation(world):
    status, text = world.evaluate("--strict", reference=False)
    assert status == 3
    assert "images.num_reference_samples must be 4; got 0" in text


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--num_resamples", "1000"], "--num_resamples must be that of --protocol mine, 100; got 1000"),
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
    words = ["--num_resamples", "100", "--metrics", "sharpness", "overlap_psnr", "--batch_size", "3", "--device", "cpu"]
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
    assert run["commit"] == code_name()


def test_without_a_protocol_the_id_is_custom(world):
    words = ["evaluate", "--generated", str(world.generated), "--metrics", "sharpness", "--out", str(world.out)]
    assert main(words) == 0
    first = world.results()["protocol"]
    assert first["id"] == "custom"
    assert first["values"] == {"metrics": ["sharpness"], "settings": {"num_resamples": 1000, "seed": 0}}
    text = '{"metrics":["sharpness"],"settings":{"num_resamples":1000,"seed":0}}'
    assert first["hash"] == hashlib.sha256(text.encode()).hexdigest()
    assert main([*words, "--num_resamples", "100"]) == 0
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
    for key in ("images", "geometry"):
        assert written[key] == world.results()["reference"][key]
    before = manifest.read_bytes()
    assert world.evaluate(*words, protocol=protocol)[0] == 0
    Image.fromarray(np.zeros((12, 12, 3), np.uint8)).save(world.reference / "s2" / "0.png")
    world.edit(world.reference / "s3" / "sample.json", sample_id="s9")
    rig = json.loads((world.reference / "s1" / "sample.json").read_text())["rig"]
    rig["views"][0][1] += 0.5
    world.edit(world.reference / "s1" / "sample.json", rig=rig)
    status, text = world.evaluate(*words, protocol=protocol)
    assert status == 3
    lines = [line for line in world.results()["deviations"] if line.startswith("manifest manifest.json: ")]
    assert lines == [
        "manifest manifest.json: the reference lacks 1 sample of the manifest: s3",
        "manifest manifest.json: the manifest lacks 1 sample of the reference: s9",
        "manifest manifest.json: images of 1 sample of the reference differ from the manifest: s2",
        "manifest manifest.json: cameras or depths of 1 sample of the reference differ from the manifest: s1",
    ]
    assert all(f"deviation: {line}" in text for line in lines)
    assert manifest.read_bytes() == before


def test_no_manifest_is_written_of_a_reference_that_cannot_be_read(world):
    (world.reference / "s2" / "3.png").write_bytes(b"broken")
    manifest = world.root / "manifest.json"
    status, text = world.evaluate("--manifest", str(manifest))
    assert status == 3
    assert f"error: --manifest {manifest} was not written" in text
    assert "manifest manifest.json: not written, since samples of the reference cannot be read" in text
    assert not manifest.exists()


def test_a_file_that_is_no_manifest(world):
    wrong = {
        "{}": "a manifest must hold schema_version 1, images and geometry",
        '{"schema_version": 1, "images": {"a": [1]}, "geometry": {}}': "images must be lists of texts by sample id",
        '{"schema_version": 1, "images": {}, "geometry": {"a": []}}': "geometry must be texts by sample id",
    }
    for text, message in wrong.items():
        path = world.root / "other.json"
        path.write_text(text)
        status, printed = world.evaluate("--manifest", str(path))
        assert status == 1
        assert message in printed
        assert path.read_text() == text
    words = ["evaluate", "--generated", str(world.generated), "--manifest", str(world.root / "m.json")]
    with pytest.raises(SystemExit):
        main(words)
    assert "--manifest names the reference and needs --reference or --config" in world.capsys.readouterr().err


def test_an_absolute_path_is_no_part_of_the_recorded_command(world):
    from mvdiff.eval.provenance import command_line

    assert command_line(["mvdiff", "a b", "--x=/y/z w", "~/q", "rel/p"]) == "mvdiff 'a b' '--x=.../z w' .../q rel/p"
