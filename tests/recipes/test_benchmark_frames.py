"""A table of two small walks: its windows, and a run that is killed."""

import pytest

from mvdiff.recipes.benchmarks.runner import run_table
from mvdiff.recipes.benchmarks.table import TRUTH
from mvdiff.recipes.scoring import PSNR
from mvdiff.samples import find_samples, sample_folder
from tests.method_parts import depth_parts
from tests.recipes.small_tables import depth_settings, numbers_of, rows_of, run_until, small_depth_table

WALKED = ("repaint", "controlnet-inpainting", "independent", "mvdiffusion", TRUTH)


@pytest.fixture(scope="module")
def small_frames(tmp_path_factory):
    """A table, and the outcome of a whole run."""
    folder = tmp_path_factory.mktemp("frames")
    table = small_depth_table(folder, depth_parts(folder))
    return folder, table, run_table(table, depth_settings(folder / "out"))


def test_frames_are_the_windows_that_the_protocol_names(small_frames):
    folder, _, outcome = small_frames
    scored = outcome.sections[0].results[TRUTH]
    assert list(scored["generated"]["images"]) == ["toy00001_keyframes_0", "toy00002_keyframes_0"]
    assert outcome.is_finished
    assert scored["metrics"][PSNR]["model"] == "depth and pose"
    rows = rows_of(folder / "out")
    assert [row["shortcomings"] for name, row in rows.items() if name != "differences"] == [[]] * len(WALKED)
    assert len({rows[name]["content_hash"] for name in WALKED}) == len(WALKED)
    assert "toy FID" not in (folder / "out" / "table2.md").read_text().replace("There is no toy FID here", "")


def test_a_killed_run_of_frames_goes_on_to_the_same_numbers(small_frames, tmp_path):
    folder, table, _ = small_frames
    out = tmp_path / "out"
    samples = out / "walks" / "samples"
    for method in ("repaint", "controlnet-inpainting", "mvdiffusion"):
        run_until(sample_folder(samples / method, "toy00002_keyframes_0"), table, depth_settings(out))
        assert [path.name for path in find_samples(samples / method)] == ["toy00001_keyframes_0"]
    run_table(table, depth_settings(out))
    assert numbers_of(out) == numbers_of(folder / "out")
