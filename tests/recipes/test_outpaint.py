"""The outpainting quickstart: its settings, what is given, its scores and sentences; and a small one to the end."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from mvdiff.cli.main import main
from mvdiff.data.toyworld import write_toyworld
from mvdiff.recipes.compared import BASE, CAA, TRUTH
from mvdiff.recipes.fit_command import Run
from mvdiff.recipes.outpaint import GIVEN, KNOWN, OutpaintRecipe
from mvdiff.recipes.precision import chosen_precision
from mvdiff.recipes.recipe import Outcome
from mvdiff.recipes.runner import Clock, facts_of, results_of, write_report
from mvdiff.recipes.scoring import PSNR
from mvdiff.recipes.settings import OutpaintSettings
from mvdiff.tasks.outpaint import OutpaintTask
from tests.forked import command, run
from tests.recipes.noisy import STRENGTHS, Noisy
from tests.shared_files import telling

SMALL = {
    "rooms": 8,
    "test_rooms": 2,
    "batch_size": 2,
    "max_steps": 4,
    "continue_steps": 2,
    "num_validations": 2,
    "num_inference_steps": 2,
    "pictures": 1,
    "num_workers": 1,
}


def test_settings():
    with pytest.raises(ValueError, match=r"pictures must be between 1 and test_rooms \(12\); got 13"):
        OutpaintSettings(pictures=13)
    with pytest.raises(ValueError, match="seed must not be 1"):
        OutpaintSettings(seed=1)


@pytest.mark.parametrize(
    ("option", "name", "text"),
    [
        ("--base", "mvdiff://nothing", "base must be a packaged one (mvdiff://toy-base, "),
        ("--base", "mvdiff://toy-base", "UNet with 9 input channels"),
        ("--base", "empty", "unet"),
        ("--fov", "200", "fov_deg must lie between 0 and 180 degrees; got 200"),
        ("--pitch", "85", "image must be visible in a view of the rig"),
        ("--init_adapter", "empty", "adapter must be a model folder, or one that comes with the package; got 'empty'"),
    ],
)
def test_what_cannot_work_is_one_clear_error_before_anything_is_made(tmp_path, monkeypatch, capsys, option, name, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert main(["quickstart", "outpaint", option, name]) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert text in error
    assert "Traceback" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_training_is_the_command_a_user_types(tmp_path):
    settings = OutpaintSettings(out=tmp_path, base="some/base")
    _, [scratch], [further] = OutpaintRecipe(settings).trainings().values()
    arguments = scratch.arguments(settings)
    assert "--model.base=some/base" in arguments
    assert arguments[:3] == ["fit", "--config", "toy/outpaint.yaml"]
    assert any(one.endswith("toy-outpaint") for one in further.arguments(settings))
    assert f"--data.root={tmp_path / 'data' / 'mp3d_skybox'}" in arguments


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Recipe and scores of a world whose methods are the held-out views, each with noise of its own strength."""
    settings = OutpaintSettings(
        out=tmp_path_factory.mktemp("quickstart"), rooms=5, test_rooms=2, batch_size=2, pictures=1
    )
    recipe, outcome = OutpaintRecipe(settings), Outcome()
    write_toyworld(settings.out / "data", rooms=5, seed=0, test_rooms=2, num_frames=0, num_workers=0)
    for method in STRENGTHS:
        recipe.write(Noisy(method, OutpaintTask()))
    for method in (CAA, BASE):
        recipe.write(Noisy(method, OutpaintTask()), recipe.picture_batches(), recipe.picture_folder(method))
    recipe.score(outcome)
    return recipe, outcome


def test_the_picture_is_cut_out_of_the_room(scored):
    """What the views show of it agrees with them: it is a part of the panorama, at its yaw and pitch."""
    recipe, _ = scored
    given, sample = recipe.given_picture(0), recipe.held_out()[0]
    [batch] = recipe.picture_batches()
    assert torch.equal(batch.known[0], given.known)
    assert batch.prompts[0] == sample["prompts"]
    known = (given.known > 0.5).expand_as(given.images)
    assert 0.2 < given.known[0].mean() < 0.9
    assert 0.1 < given.known[1].mean() < 0.9
    error = (given.images - sample["images"])[known].square().mean()
    moved = (given.images - sample["images"].roll(4, dims=-1))[known].square().mean()
    assert error < 0.3 * moved


def test_scores_and_sentences(scored):
    recipe, outcome = scored
    scores = outcome.scores
    truth, caa, base = (scores["methods"][name] for name in (TRUTH, CAA, BASE))
    assert truth[KNOWN].estimate == 100
    for name in (GIVEN, KNOWN, PSNR):
        assert truth[name].estimate > caa[name].estimate > base[name].estimate
        assert scores["differences"][CAA][name].estimate == pytest.approx(caa[name].estimate - base[name].estimate)
    written = json.loads((recipe.settings.out / "scores" / "caa.json").read_text())["metrics"]
    assert written[GIVEN]["value"] == caa[GIVEN].estimate
    assert scores["pictures"][CAA][KNOWN].estimate > scores["pictures"][BASE][KNOWN].estimate
    sentences = recipe.sentences(outcome)
    says = (
        f"With CAA the neighbours show the given view, in too few samples for an interval: {caa[GIVEN].estimate:.1f} dB"
    )
    assert sentences[0].startswith(says)
    assert f"come back at {caa[KNOWN].estimate:.1f} dB" in sentences[1]
    methods, differences, pictures = recipe.tables(outcome)
    assert {row[0] for row in methods.rows} - set(methods.references) == {CAA, BASE}
    assert (len(differences.rows), len(pictures.rows)) == (3, 2)


def test_what_is_written_tells_names_alone(scored, tmp_path):
    """The page and the numbers of a run whose folders were all given as absolute paths."""
    recipe, outcome = scored
    given = {name: str(tmp_path / "people" / name) for name in ("base", "init_adapter")}
    curves = {"val/overlap_psnr": ([4], [18.0]), "val/loss": ([4], [0.5])}
    done = replace(
        outcome, runs=[Run(name, tmp_path, curves) for name in ("a", "b")], before={"val/overlap_psnr": 17.0}
    )
    told = OutpaintRecipe(replace(recipe.settings, **given))
    assert "base" in json.dumps(results := results_of(told, done, Clock()))
    assert str(tmp_path) not in json.dumps(results)
    page = write_report(told, done, facts_of(told, told.text(told.base), Clock()))
    for place in (page, recipe.settings.out / "scores", recipe.settings.out / "samples"):
        assert not telling(place, tmp_path, recipe.settings.out.parent)


def test_galleries_show_what_was_given(scored):
    recipe, _ = scored
    rows = recipe.picture_galleries()[0].rows
    known = recipe.given_picture(0).known
    shown = torch.from_numpy(np.stack(rows["given"])).permute(0, 3, 1, 2)
    assert (shown[(known == 0).expand_as(shown)] == 128).all()
    assert list(rows) == ["given", BASE, CAA]


@pytest.mark.slow
def test_small_outpaint_quickstart_runs_to_the_end(tmp_path):
    options = [part for name, value in SMALL.items() for part in (f"--{name}", str(value))]
    run(tmp_path / "log", command, ["quickstart", "outpaint", "--out", "out", *options], None, tmp_path)
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    methods = results["scores"]["methods"]
    # Two rooms and two steps prove no gain; what must hold at any size are the ends of the scale.
    for name in ("known_psnr", "given_overlap_psnr"):
        found = {method: values[name]["estimate"] for method, values in methods.items()}
        assert found["ground truth"] > found["autoencoder round trip"] > found["base without CAA"]
        assert f"{found['with CAA']:.1f}" in text
    precision = chosen_precision("auto")  # bfloat16 takes minutes where the processor lacks it
    computed = {"32-true": "float32", "bf16-mixed": "float32 under bfloat16 autocast"}[precision]
    for method in ("caa", "base", "foreign", "silent", "truth", "round_trip"):
        samples = list((tmp_path / "out" / "samples" / method).glob("*/sample.json"))
        assert len(samples) == 2
        assert len(list((samples[0].parent / "given").glob("*.png"))) == 8
        dtype = json.loads(samples[0].read_text())["settings"].get("dtype")
        assert dtype == (None if method in ("truth", "round_trip") else computed)
    assert len(list((tmp_path / "out" / "pictures").glob("*/*/sample.json"))) == 2
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert results["curves"]["from scratch"]["val/overlap_psnr"][0] == [2, 4]
    assert results["settings"]["precision"] == precision
    assert precision in text
    assert results["cpu_seconds"].keys() == results["seconds"].keys()
    assert all(seconds > 0 for seconds in results["cpu_seconds"].values())
    assert "attention weights of mvdiff://toy-outpaint, trained further here" in text
