"""Tasks by themselves: names, what they ask of a batch, what they say was given."""

import re

import pytest
import torch

from mvdiff.geometry.cameras import RingRig
from mvdiff.pipelines.calls import rig_batch
from mvdiff.tasks import opening
from mvdiff.tasks.opening import PAPER_TASKS, task_from
from mvdiff.tasks.panorama import PanoramaTask
from mvdiff.tasks.task import Task

RING = RingRig(num_views=2, fov_deg=120.0, height=4, width=4)


def outpaint_batch(images=None, known=None):
    if images is None:
        images, known = torch.rand(1, 2, 3, 4, 4) - 0.5, torch.zeros(1, 2, 1, 4, 4)
        known[:, 0] = 1
    return rig_batch(RING, [["a ball"] * 2] * len(images), images=images, known=known)


@pytest.mark.parametrize("task", PAPER_TASKS)
def test_a_task_is_found_by_what_is_stored_of_it(task):
    assert type(task_from(task.spec())) is task
    assert task.spec() == task.name


def test_an_unknown_task_is_named():
    with pytest.raises(ValueError, match=r"task must be one of panorama, outpaint, depth.*'sculpt'"):
        task_from("sculpt")


@pytest.mark.parametrize("spec", [["panorama"], {"class_path": "os.system"}, None, 3], ids=str)
def test_a_task_is_named_by_a_text(spec):
    with pytest.raises(ValueError, match=rf"task must be .*got {re.escape(repr(spec))}, in info\.json"):
        task_from(spec, "info.json")


def test_a_task_outside_the_package_is_stored_by_its_class_path():
    class Elsewhere(Task):
        name = "elsewhere"

    assert Elsewhere.spec().endswith("Elsewhere")
    assert Elsewhere.spec().startswith("tests.tasks.test_tasks.")


def test_a_task_of_the_package_that_is_not_the_papers_opens_by_what_is_stored(monkeypatch):
    mine = type("Mine", (PanoramaTask,), {"__module__": "mvdiff.tasks.opening", "name": "mine"})
    monkeypatch.setattr(opening, "Mine", mine, raising=False)
    assert type(task_from(mine.spec())) is mine
    assert mine.command() == "mvdiff generate dataset"


def test_outpainting_says_what_was_given_by_pixels_and_mask_alone():
    task, batch = task_from("outpaint"), outpaint_batch()
    plain, rgba = task.describe_given(batch, 0)
    assert plain["given"]["known_share"] == [1.0, 0.0]
    assert plain["given"]["pictures"] == []
    images, known = batch.images, batch.known
    unread = torch.where(known > 0, images, float("nan"))
    assert task.describe_given(outpaint_batch(unread, known), 0)[0] == plain
    changed, less = images.clone(), known.clone()
    changed[0, 0, 0, 0, 0] += 0.3
    less[0, 0, 0, 0, 0] = 0
    others = [task.describe_given(outpaint_batch(*pair), 0)[0] for pair in ((changed, known), (images, less))]
    assert len({described["given"]["hash"] for described in (plain, *others)}) == 3
    assert rgba.shape == (2, 4, 4, 4)
    assert rgba[..., 3].unique().tolist() == [0, 255]


@pytest.mark.parametrize(
    ("known", "match"),
    [
        (None, "known .* without known"),
        (0.5, r"known must be 0 or 1; got values from 0\.5"),
        (0.0, "known .* sample 0"),
    ],
)
def test_outpainting_needs_to_know_something(known, match):
    batch = outpaint_batch()
    batch.known = None if known is None else torch.full_like(batch.known, known)
    with pytest.raises(ValueError, match=match):
        task_from("outpaint").check_batch(batch)


def test_given_pixels_are_put_back_and_nothing_else():
    batch = outpaint_batch()
    rendered = torch.rand(1, 2, 3, 4, 4)
    finished = task_from("outpaint").finish(rendered, batch)
    assert torch.equal(finished[:, 0], batch.images[:, 0])
    assert torch.equal(finished[:, 1], rendered[:, 1])


def test_depth_needs_depths():
    with pytest.raises(ValueError, match="depths are required"):
        task_from("depth").check_batch(outpaint_batch())


def test_depth_tells_interpolation_from_generation():
    batch = rig_batch(RING, [["a"] * 2] * 2, known=torch.zeros(2, 2, 1, 4, 4))
    batch.known[1, 0] = 1
    task = task_from("depth")
    assert task.modes(batch) == ["generation", "interpolation"]
    assert [task.describe_given(batch, i)[0] for i in (0, 1)] == [{"given": []}, {"given": [0]}]
