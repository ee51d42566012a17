"""Cases 41 and 60: a flat folder of images, and prompts over the text encoder's context."""

import json

from mvdiff.cli.main import main


def test_41_flat_folders_score_what_can_be_scored(case, shows, tmp_path, capsys):
    folder, out = case(41), tmp_path / "results.json"
    words = ["evaluate", "--generated", str(folder / "gen"), "--reference", str(folder / "real"), "--out", str(out)]
    words += ["--metrics", "toy_fid", "toy_inception_score", "clip_score", "overlap_psnr", "--num_splits", "2"]
    assert main([*words, "--overlap_size", "0", "--num_workers", "0"]) == 0
    printed, results = capsys.readouterr().out, json.loads(out.read_text())
    assert "each image counts as one sample of one view" in printed
    metrics = results["metrics"]
    assert metrics["toy_fid"]["num_images"] == metrics["toy_fid"]["num_reference_images"] == 4
    assert "value" in metrics["toy_inception_score"]
    assert "An image alone has one view" in metrics["overlap_psnr_pooled"]["missing"]
    shows(
        41, "evaluate", f"toy FID {metrics['toy_fid']['value']:.1f} of 4 and 4 images; {results['generated']['note']}"
    )


def test_60_prompts_over_the_context_are_counted_and_noted(case, shows, tmp_path, caplog):
    prompts, out = case(60) / "prompts.txt", tmp_path / "out"
    words = ["--model", "mvdiff://toy-caa", "--num_inference_steps", "1", "--guidance_scale", "1"]
    assert main(["generate", "panorama", "--prompts", str(prompts), "--out", str(out), *words]) == 0
    (line,) = [record.getMessage() for record in caplog.records if "tokens" in record.getMessage()]
    assert line.startswith("2 of 2 prompts have more tokens than the ")
    assert "2 different prompts become equal" in line
    for name in ("0000", "0001"):
        notes = json.loads((out / name / "sample.json").read_text())["settings"]["text_notes"]
        assert len(notes["num_tokens"]) == 8
        assert min(notes["num_tokens"].values()) > notes["context_length"]
    shows(60, "generate panorama", line)
