"""A small depth quickstart from the command line to the end."""

import json

import pytest

from tests.forked import command, run

SMALL = {
    "rooms": 6,
    "test_rooms": 2,
    "batch_size": 2,
    "max_steps": 4,
    "continue_steps": 2,
    "stage1_steps": 2,
    "num_validations": 2,
    "num_inference_steps": 2,
    "num_frames": 18,
    "arc_deg": 110,
    "num_views": 5,
    "sequences": 1,
    "num_workers": 1,
}


@pytest.mark.slow
def test_small_depth_quickstart_runs_to_the_end(tmp_path):
    options = [part for name, value in SMALL.items() for part in (f"--{name}", str(value))]
    run(tmp_path / "log", command, ["quickstart", "depth", "--out", "out", *options], None, tmp_path)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    methods = results["scores"]["methods"]
    psnr = {name: values["overlap_psnr_mean_of_pairs"]["estimate"] for name, values in methods.items()}
    # Two rooms and two steps prove no gain; what must hold at any size are the ends of the scale.
    assert psnr["ground truth"] > psnr["autoencoder round trip"] > psnr["base without CAA"]
    assert methods["ground truth"]["thing_colours"]["estimate"] == 1
    between = {name: value["estimate"] for name, value in results["interpolation"]["methods"].items()}
    assert between["ground truth"] > between["interpolated"]
    assert f"{psnr['with CAA']:.1f}" in page
    for name in (*methods, *between):
        assert name in page
    for method in ("caa", "base", "foreign", "silent", "truth", "round_trip"):
        assert len(list((tmp_path / "out" / "samples" / method).glob("*/sample.json"))) == 2
    for method in ("sequences", "sequences_base", "sequences_truth"):
        [sample] = (tmp_path / "out" / "samples" / method).glob("*/sample.json")
        described = json.loads(sample.read_text())["settings"]
        assert len(list(sample.parent.glob("*.png"))) == len(list((sample.parent / "depth").glob("*.png"))) > 6
        assert (tmp_path / "out" / "meshes" / f"{method}.glb").stat().st_size > 10_000
        assert len(described["frames"]) > len(described["key_frames"]) or method == "sequences_base"
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert set(results["curves"]) == {
        "stage 1, from a base without depth",
        "stage 1, packaged, continued",
        "from scratch",
        "packaged, continued",
    }
    assert results["curves"]["stage 1, packaged, continued"]["val/loss"][0] == [0, 1, 2]
    assert results["curves"]["from scratch"]["val/overlap_psnr"][0] == [2, 4]
    assert (tmp_path / "out" / "train" / "packaged, continued" / "model" / "mvdiff.json").is_file()
