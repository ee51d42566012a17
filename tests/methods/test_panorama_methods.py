"""The methods for panoramas: their properties, on a tiny base."""

from dataclasses import replace

import pytest
import torch

from mvdiff.eval.overlap import overlap_psnr
from mvdiff.geometry.cameras import Rig, RingRig
from mvdiff.geometry.given import warp_given
from mvdiff.geometry.sampling import sample_bilinear
from mvdiff.methods import method_class, method_names
from mvdiff.methods.method import write_method
from mvdiff.methods.multidiffusion import OverlapAverage
from mvdiff.methods.parts import MissingPart, Parts, WrongPart
from mvdiff.models.backbone import load_backbone
from mvdiff.pipelines.calls import rig_batch
from mvdiff.samples import read_sample, to_uint8
from mvdiff.settings import Controls, Sampling
from mvdiff.tasks.opening import task_from
from mvdiff.tasks.outpaint import OutpaintTask
from tests.pipelines.conftest import RING, make_pipeline
from tests.tiny import tiny_base

STEPS = Sampling(num_inference_steps=2, guidance_scale=2.0)
APART = Rig([(0, 0, 80), (90, 0, 80), (180, 0, 80)], height=32, width=32)  # no view sees what another sees
PANORAMA = ("independent", "inpainting", "multidiffusion", "sd-pano")


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """A base of each kind, by method."""
    folder = tmp_path_factory.mktemp("bases")
    text = tiny_base(folder / "text", "v_prediction", zero_terminal_snr=True)
    inpainting = load_backbone(text)
    OutpaintTask().add_input(inpainting.unet)
    inpainting.save_pretrained(folder / "inpainting")
    return {name: folder / ("inpainting" if name == "inpainting" else "text") for name in PANORAMA}


@pytest.fixture(scope="module")
def methods(bases):
    opened = {name: method_class(name).open(Parts(base=bases[name]), task_from("panorama")) for name in PANORAMA}
    for method in opened.values():
        method.pipelines[0].set_progress_bar_config(disable=True)
    return opened


def ring_batch(rig=RING, ids=("a", "b")):
    return rig_batch(rig, [[f"a red ball {view}, a wall" for view in range(rig.num_views)]] * len(ids), list(ids))


def test_names_are_those_of_files_and_tasks():
    assert set(PANORAMA) | {"mvdiffusion"} <= set(method_names("panorama")) <= set(method_names())
    assert not {"inpainting", "sd-pano", "multidiffusion"} & set(method_names("depth"))
    with pytest.raises(ValueError, match=r"method for the task depth must be one of .*mvdiffusion.*; got 'inpainting'"):
        method_class("inpainting", "depth")
    with pytest.raises(ValueError, match=r"class path of a Method; got 'mvdiff.samples.find_samples'"):
        method_class("mvdiff.samples.find_samples")


@pytest.mark.parametrize("name", [*PANORAMA, "mvdiffusion"])
def test_a_missing_part_is_named_with_its_option(name):
    part = "model" if name == "mvdiffusion" else "base"
    with pytest.raises(MissingPart, match=rf"--{part} must be given: the method {name} needs") as error:
        method_class(name).open(Parts(), task_from("panorama"))
    assert error.value.part == part


@pytest.mark.parametrize("name", PANORAMA)
def test_a_sample_depends_on_seed_and_id_and_not_on_its_batch(methods, name):
    method, batch = methods[name], ring_batch()
    both = method.generate(batch, STEPS, 0)
    assert both.shape == (2, 4, 3, 32, 32)
    assert both.abs().max() <= 1
    alone = method.generate(batch.rows([1]), STEPS, 0)[0]
    assert (alone - both[1]).abs().max() < 2e-4
    assert (both[0] - both[1]).abs().max() > 0.01
    assert (method.generate(batch.rows([1]), STEPS, 1)[0] - alone).abs().max() > 0.01
    settings = method.describe(STEPS)
    assert (settings["method"], settings["adapter_weights_hash"], settings["caa"]) == (name, None, False)


def test_independent_is_the_base_of_a_model_bit_for_bit(tmp_path):
    pipeline = make_pipeline(tmp_path / "base")
    batch = ring_batch()
    plain = method_class("independent").open(Parts(model=pipeline), task_from("panorama"))
    parts = Parts(base=tmp_path / "base", prompt_prefix=pipeline.prompt_prefix)
    alone = method_class("independent").open(parts, task_from("panorama"))
    assert torch.equal(plain.generate(batch, STEPS, 3), alone.generate(batch, STEPS, 3))
    caa = method_class("mvdiffusion").open(Parts(model=pipeline)).generate(batch, STEPS, 3)
    assert not torch.equal(caa, plain.generate(batch, STEPS, 3))


def test_a_prefix_for_a_base_alone_is_recorded_where_views_have_prompts(bases, methods):
    for name in PANORAMA:
        parts = Parts(base=bases[name], prompt_prefix="one view: ")
        if name == "sd-pano":
            with pytest.raises(WrongPart, match="--prompt_prefix must be left out: sd-pano has one text for all views"):
                method_class(name).open(parts)
            assert methods[name].describe(STEPS)["prompt_prefix"] is None
        else:
            assert method_class(name).open(parts).describe(STEPS)["prompt_prefix"] == "one view: "
            assert methods[name].describe(STEPS)["prompt_prefix"] == ""
    with pytest.raises(WrongPart, match="--prompt_prefix must be left out with --model, which has its own; got 'x'"):
        Parts(model="mvdiff://toy-caa", prompt_prefix="x")


def test_multidiffusion_without_overlap_is_independent_bit_for_bit(methods):
    apart, joint = ring_batch(APART), ring_batch()
    independent, multidiffusion = methods["independent"], methods["multidiffusion"]
    assert torch.equal(independent.generate(apart, STEPS, 0), multidiffusion.generate(apart, STEPS, 0))
    assert not torch.equal(independent.generate(joint, STEPS, 0), multidiffusion.generate(joint, STEPS, 0))


def test_multidiffusion_makes_overlapping_latents_agree(methods):
    pipeline = methods["multidiffusion"].pipelines[0]
    batch = ring_batch(ids="a")
    average = OverlapAverage.of(batch, 4, pipeline.scheduler)
    apart = []
    for coupling in (None, average):
        how = {"controls": Controls(caa=False), "decode": False, "coupling": coupling}
        latents = pipeline.generate(batch, STEPS, **how).latents[0]
        errors = [
            (latents[view] - sample_bilinear(latents[None, other], xy[None], padding="border")[0])[:, weight > 0]
            for view, others in enumerate(average.seen)
            for other, xy, weight in others
        ]
        apart.append(torch.cat(errors, dim=1).square().mean().sqrt())
    assert [[other for other, *_ in others] for others in average.seen] == [[1, 3], [0, 2], [1, 3], [0, 2]]
    assert apart[1] < 0.7 * apart[0]


def test_inpainting_keeps_what_earlier_views_show_and_closes_the_loop(methods):
    rig = RingRig(num_views=8, height=32, width=32)
    K, R = rig.cameras()
    views = methods["inpainting"].generate(ring_batch(rig, "a"), STEPS, 0)[0]
    for view, other in ((1, 0), (5, 4), (7, 6)):
        warped, known = warp_given(views[other], K[other], R[other], K[view : view + 1], R[view : view + 1], 32, 32)
        assert 0.4 < known.mean() < 0.6
        shown_first = torch.zeros_like(known)  # in the last view, view 0 counts before view 6
        if view == 7:
            shown_first = warp_given(views[0], K[0], R[0], K[7:], R[7:], 32, 32)[1]
        kept = (known > 0) & (shown_first == 0)
        assert torch.equal(views[view].where(kept[0] > 0, 0), warped[0].where(kept[0] > 0, 0))
    from_first, known = warp_given(views[0], K[0], R[0], K[7:], R[7:], 32, 32)
    assert torch.equal(views[7] * known[0], from_first[0])


def test_inpainting_takes_views_of_which_nothing_is_known_from_a_model(bases, methods):
    batch = ring_batch(APART)
    pipeline = methods["independent"].pipelines[0]
    parts = Parts(base=bases["inpainting"], model=pipeline)
    method = method_class("inpainting").open(parts, task_from("panorama"))
    assert (method.generate(batch, STEPS, 0) - methods["independent"].generate(batch, STEPS, 0)).abs().max() < 2e-4
    assert method.describe(STEPS)["first_view"]["base_weights_hash"] == pipeline.base.weights_hash


def test_views_of_sd_pano_are_cut_from_one_panorama(methods):
    method = methods["sd-pano"]
    rig = RingRig(num_views=8, height=64, width=64)
    batch = ring_batch(rig, "a")
    views, whole = method.generate_with_panoramas(batch, STEPS, 0)
    assert whole.shape == (1, 3, 64, 128)
    assert torch.equal(views, method.generate(batch, STEPS, 0))
    views = views[0]
    assert (views[0, :, 31:33, 31:33].mean((1, 2)) - whole[0, :, 31:33, 63:65].mean((1, 2))).abs().max() < 0.1
    K, R = rig.cameras()
    assert overlap_psnr(views, K, R, size=None)["overlap_psnr_mean_of_pairs"] > 25
    joined = replace(batch, prompts=[["a ball, a wall", "unread", "a lamp, a wall", "unread"] * 2])
    other = replace(batch, prompts=[["a wall, a ball, a lamp"] * 8])
    images = [method.generate(one, STEPS, 0) for one in (joined, other, batch)]
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])


def test_a_method_that_makes_panoramas_stores_them_as_they_are(methods, tmp_path):
    """The panorama of the other methods is stitched from their views, and grey where no view looks."""
    batch = ring_batch(ids="a")
    made = methods["sd-pano"].generate_with_panoramas(batch, STEPS, 0)[1]

    def stored(name, rig):
        write_method(methods[name], [batch], tmp_path / f"{name} {rig}", STEPS, rig=rig)
        return read_sample(tmp_path / f"{name} {rig}" / "a").panorama_uint8()

    assert torch.equal(stored("sd-pano", RING), to_uint8(made[0]))
    assert torch.equal(stored("sd-pano", None), to_uint8(made[0]))
    assert stored("independent", RING)[:, 0].float().std() == 0
    assert stored("independent", None) is None


def test_a_base_that_takes_another_input_is_refused(bases):
    with pytest.raises(ValueError, match="base must have a UNet with 9 input channels"):
        method_class("inpainting").open(Parts(base=bases["independent"]))
    with pytest.raises(ValueError, match="4 input channels"):
        method_class("multidiffusion").open(Parts(base=bases["inpainting"]))
