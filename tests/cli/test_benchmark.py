"""`mvdiff benchmark` from the command line: wrong options, and the list of what the paper's size needs."""

import pytest

from mvdiff.cli.main import main


@pytest.fixture
def nothing_here(tmp_path, monkeypatch):
    """An empty folder, no cache of the hub, of torch or of open_clip."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["table1", "--only", "sdpano"], "--only must be some of inpainting, text2light, sd-pano,"),
        (["table2", "--only", "inpainting"], "--only must be some of repaint,"),
        (["table1", "--imported", "text2light"], "--imported must be METHOD=DIR; got 'text2light'"),
        (["table3", "--imported", "mine=out"], "--imported must be methods of table3"),
        (["table1", "--batch_size", "0"], "--batch_size must be at least 1; got 0"),
        (["table1", "--size", "huge"], "--size"),
        (["table1", "--inception_weights", "x"], "--inception_weights is not used by the metrics of toy-pano-v1;"),
        (["table2", "--clip_weights", "x"], "--clip_weights is not used by the metrics of toy-depth-v1;"),
        (["table1", "--only", "truth", "--model", "x"], "--model is not used by the rows that are made (truth);"),
        (
            ["table1", "--only", "inpainting", "independent", "--pano_base", "x"],
            "--pano_base is not used by the rows that are made (inpainting, independent);",
        ),
        (["table1", "--imported", "inpainting=x", "--inpainting_base", "y"], "--inpainting_base is not used by the"),
        (
            ["table2", "--size", "paper", "--only", "repaint", "--controlnet", "x"],
            "--controlnet is not used by the rows that are made (repaint);",
        ),
        (["table4"], "command must be one of benchmark table1, benchmark table2"),
    ],
)
def test_wrong_options(nothing_here, capsys, words, text):
    try:
        status = main(["benchmark", *words])
    except SystemExit as stopped:
        status = stopped.code
    assert status == 2
    assert text in capsys.readouterr().err
    assert not list(nothing_here.iterdir())


def missing(words, capsys) -> list[str]:
    """Return the lines of the list that a run at the paper's size ends with."""
    assert main(["benchmark", *words, "--size", "paper"]) == 1
    first, *lines = capsys.readouterr().err.splitlines()
    assert "nothing was done" in first
    assert f"lacks {len(lines)} thing" in first
    return lines


def test_the_papers_size_lists_all_that_it_needs(nothing_here, capsys):
    lines = missing(["table1"], capsys)
    for text in (
        "no usable GPU",
        "--data must be given: Matterport3D's panoramas",
        "--model must be given: a model trained by mvdiff fit --config pano.yaml",
        "hf download sd2-community/stable-diffusion-2-inpainting",
        "--pano_base must be given: a base that mvdiff fit --config pano_sd.yaml writes",
        "weights-inception-2015-12-05-6726825d.pth",
        "clip_score: ",
        "got 'openai', which is not in the cache (no download: offline)",
        "row text2light: its own code makes the panoramas: mvdiff import erp THEIR_PANORAMAS --rig ",
    ):
        assert any(text in line for line in lines), text
    assert "then --imported text2light=text2light" in lines[-1]
    assert not any("download failed" in line for line in lines)
    assert not (nothing_here / "benchmark").exists()


def test_only_the_rows_asked_for_are_looked_at(nothing_here, capsys):
    (nothing_here / "data").mkdir()
    lines = missing(["table2", "--only", "mvdiffusion", "--data", "data", "--model", "nowhere"], capsys)
    assert any("--data: " in line and "none of these" in line for line in lines)
    assert any("row mvdiffusion: --model: model must be a model folder" in line for line in lines)
    assert not any("controlnet" in line for line in lines)
    lines = missing(["table1", "--only", "inpainting"], capsys)
    assert not any("text2light" in line or "pano_base" in line for line in lines)


def test_the_files_of_every_panorama_must_exist(nothing_here, capsys):
    """The first 16 are read; a face of the 18th is missing."""
    main(["data", "toyworld", "world", "--rooms", "19", "--test_rooms", "18", "--num_frames", "0", "--size", "16"])
    faces = sorted((nothing_here / "world").glob("**/*_skybox3_sami.jpg"))
    faces[-1].unlink()
    capsys.readouterr()
    words = ["table1", "--only", "mvdiffusion", "--data", "world", "--model", "mvdiff://toy-caa", "--device", "cpu"]
    assert any("1 of 18 panoramas in" in line and faces[-1].name in line for line in missing(words, capsys))


def test_the_data_must_have_the_samples_of_the_protocol(nothing_here, capsys):
    main(["data", "toyworld", "world", "--rooms", "2", "--test_rooms", "1", "--num_frames", "0", "--size", "32"])
    capsys.readouterr()
    words = ["table1", "--only", "mvdiffusion", "--data", "world", "--model", "mvdiff://toy-caa", "--device", "cpu"]
    lines = missing(words, capsys)
    assert any("must have 1092 samples of mvdiffusion-pano-v1; got 0" in line for line in lines)
    assert not any("--model" in line or "GPU" in line for line in lines)
