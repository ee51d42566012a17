"""The panorama quickstart: text to panorama, with and without correspondence-aware attention."""

from __future__ import annotations

from typing import Any, ClassVar

from mvdiff.data.datamodule import Matterport3DDataModule
from mvdiff.data.known import KnownMode
from mvdiff.data.panoramas import PanoramaDataset
from mvdiff.data.toyworld.truth import view_truth
from mvdiff.eval.settings import EvaluationSettings
from mvdiff.eval.sources import DataSource
from mvdiff.geometry.cameras import RingRig
from mvdiff.models.backbone import resolve_base
from mvdiff.recipes.compared import BASE, CAA, FOREIGN, TRUTH
from mvdiff.recipes.fit_command import Training, adapter_folder
from mvdiff.recipes.page import chart_of
from mvdiff.recipes.recipe import Outcome, Recipe
from mvdiff.recipes.scoring import CONTENT, FID, IS, OF_TRUTH, POOLED, PSNR, SHARP, Number, Pass, evaluation_settings
from mvdiff.report import Gallery, PanoramaEntry, view_labels
from mvdiff.report.pictures import channels_last, stitched
from mvdiff.samples import Sample, write_json

TOY_RIG = RingRig(num_views=8, fov_deg=90.0, height=64, width=64)


class PanoramaRecipe(Recipe):
    """Panoramas of held-out toy rooms from their captions.

    Attributes:
        metrics: Metrics to compute.
        config: Packaged config of the trainings.
        known: Rule for the known parts of a panorama (`data.known`); None: nothing is known.
        validation: Noun for the inputs of validation, in texts.
        before, further: Names of the steps that validate a fresh adapter, and train the packaged one further.
        further_run: Name of the latter's run.
        further_story: Sentence about the second training.
    """

    command = "mvdiff quickstart"
    title = "mvdiff quickstart: text to panorama"
    layout = "mp3d_skybox"
    rig = TOY_RIG
    making_world = "toy world: {s.rooms} rooms, {s.test_rooms} held out"
    making = "generating {s.test_rooms} panoramas"
    unit = "panoramas"
    metrics: ClassVar[tuple[str, ...]] = (
        "overlap_psnr",
        "toy_fid",
        "toy_inception_score",
        "caption_agreement",
        "sharpness",
    )
    numbers = (
        Number.of(PSNR, digits=1),
        Number.of(POOLED, digits=1),
        OF_TRUTH,
        Number.of(FID),
        Number.of(IS),
        Number.of(CONTENT, name="object and colour read as captioned", digits=2),
        SHARP,
    )
    differences = (
        Number.of(PSNR, name="overlap PSNR", better=None),
        Number.of(FID, better=None),
        Number.of(CONTENT, name="object and colour read", better=None),
        SHARP,
    )
    content = CONTENT, "caption agreement"
    tables_say = (
        (
            "Held-out panoramas",
            "{num_panoramas} panoramas of 8 views at 64x64; 95% intervals over panoramas. Overlap PSNR at "
            "the views' own size. Toy FID and IS use the project's {feature_network[name]} network "
            "({feature_network[weights_hash]:.12}) against {num_reference_panoramas} training rooms; they are not "
            "comparable with Inception scores.",
        ),
        (
            "Paired differences, same captions and seeds",
            "Positive: more than the base. Only attention to the right neighbours may raise the overlap PSNR.",
        ),
    )
    config: ClassVar[str] = "toy/pano.yaml"
    known: ClassVar[KnownMode | None] = None
    validation: ClassVar[str] = "validation captions"
    before: ClassVar[str] = "base on the validation captions, before any training"
    further: ClassVar[str] = "training the packaged CAA further, {s.continue_steps} steps"
    further_run: ClassVar[str] = "packaged, continued"
    further_story: ClassVar[str] = (
        "The panoramas were made with the packaged attention weights, which the same config made with more steps, "
        "trained further here for {s.continue_steps} steps: minutes are too few to train them from scratch."
    )

    def check(self) -> None:
        """Find base and adapter."""
        resolve_base(self.settings.base)
        adapter_folder(self.settings.init_adapter)

    def world(self) -> dict[str, Any]:
        """Draw panoramas alone."""
        return {"num_frames": 0}

    def trainings(self) -> dict[str, list[Training]]:
        """Train attention from scratch, then the packaged one further."""
        settings, packaged = self.settings, adapter_folder(self.settings.init_adapter)
        options = {
            "total_batch_size": settings.batch_size,
            "model.base": settings.base,
            "model.sampling.num_inference_steps": settings.num_inference_steps,
            "model.sampling.guidance_scale": settings.guidance_scale,
            "data.root": self.data_root,
            "data.batch_size": settings.batch_size,
        }
        scratch = {"config": self.config, "max_steps": settings.max_steps, "lr": 1e-3, "options": options}
        steps = {
            self.before: [Training(name="before", command="validate", **scratch)],
            f"training CAA from scratch, {settings.max_steps} steps": [Training(name="from scratch", **scratch)],
        }
        if packaged is not None and settings.continue_steps:
            run = {"config": self.config, "max_steps": settings.continue_steps, "lr": 2e-4}
            options = options | {"model.init_adapter": packaged, "trainer.val_check_interval": settings.continue_steps}
            steps[self.text(self.further)] = [Training(name=self.further_run, **run, options=options)]
        return steps

    def held_out(self) -> PanoramaDataset:
        """Return the held-out panoramas at yaw 0."""
        return Matterport3DDataModule(str(self.data_root), self.rig, known=self.known).test_dataset()

    def passes(self) -> list[Pass]:
        """Compare with the training rooms at yaw 0.

        The distance to them gets no interval: resampled sets lie further away than the set itself.
        """
        data = Matterport3DDataModule(str(self.data_root), self.rig, num_val=0)
        return [(self.metrics, DataSource(data, "train", str(self.data_root)))]

    def evaluation(self) -> EvaluationSettings:
        """Judge samples by the objects and colours of their captions."""
        truth = view_truth(self.data_root, self.held_out().sample_ids(), self.rig)
        path = write_json(self.settings.out / "truth.json", truth)
        return evaluation_settings(self.settings.seed, truth=str(path), judge_heads=["object", "colour"])

    def story(self, outcome: Outcome) -> list[str]:
        """Describe in sentences which weights made the panoramas and what the training from scratch reached."""
        steps, values = outcome.runs[0].curves["val/overlap_psnr"]
        alone = "The panoramas were made with the attention trained here from scratch."
        scratch = f"The curve from scratch ({self.settings.max_steps} steps on "
        scratch += f"{self.settings.rooms - self.settings.test_rooms} rooms) reaches {max(values):.1f} dB on the "
        scratch += f"{self.validation} after {steps[values.index(max(values))]} steps."
        return [alone if len(outcome.runs) == 1 else self.text(self.further_story), scratch]

    def sections(self, outcome: Outcome) -> dict[str, Any]:
        """Show curves, and views and viewer scenes of the first held-out panoramas."""
        runs, before = outcome.runs, outcome.before["val/overlap_psnr"]
        note = "Panoramas generated from validation captions on fixed seeds with the averaged weights."
        psnr = ("Overlap PSNR while training", "val/overlap_psnr", "overlap PSNR (dB)", runs, note)
        note = "Validation rooms at fixed timesteps and noise."
        loss = chart_of("Held-out loss", "val/loss", "noise loss", runs, note)
        charts = [chart_of(*psnr, at_0={runs[0].name: before}, base=before), loss]
        labels, galleries, panoramas = view_labels(self.rig.yaw_deg, self.rig.pitch_deg), [], []
        for number, samples in enumerate(self.rooms(), start=1):
            prompts = samples[CAA].record.prompts
            rows = {name: channels_last(samples[name].images_uint8()) for name in (BASE, CAA, FOREIGN, TRUTH)}
            galleries.append(Gallery(rows, f"held-out room {number}", labels, prompts))
            stitched_anew = {name: _panorama(samples[name]) for name in (CAA, BASE, TRUTH)}
            panoramas.append(PanoramaEntry(f"room {number}", prompts, stitched_anew))
        return {"charts": charts, "galleries": galleries, "panoramas": panoramas}


def _panorama(sample: Sample) -> object:
    """Stitch a sample's views, denser than a toy view, with the mask of what they cover."""
    images_uint8 = sample.images_uint8()
    return stitched(sample, images_uint8, height=4 * images_uint8.shape[-2])
