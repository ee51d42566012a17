"""The outpainting quickstart: held-out rooms continued around their first view, and around pictures."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from mvdiff.batch import MultiViewBatch
from mvdiff.data.panoramas import PanoramaDataset
from mvdiff.geometry.cameras import Rig
from mvdiff.models.backbone import load_backbone
from mvdiff.pipelines.base import MultiViewPipeline
from mvdiff.pipelines.given import GivenImage, GivenViews, given_views
from mvdiff.recipes.compared import BASE, CAA, CONTROLS, FOLDERS, ROUND_TRIP, TRUTH, sampled_methods
from mvdiff.recipes.fit_command import adapter_folder
from mvdiff.recipes.page import opened, table_of
from mvdiff.recipes.panorama import PanoramaRecipe
from mvdiff.recipes.recipe import Outcome, Steps
from mvdiff.recipes.scoring import (
    CONTENT,
    FID,
    OF_TRUTH,
    PSNR,
    SHARP,
    Number,
    Results,
    evaluate_methods,
    evaluation_settings,
    numbers_of,
    signed,
)
from mvdiff.recipes.settings import OutpaintSettings
from mvdiff.report import Gallery, Table, view_labels
from mvdiff.report.pictures import channels_last
from mvdiff.tasks.outpaint import OutpaintTask

GIVEN, KNOWN = "given_overlap_psnr", "known_psnr"
PICTURE_METHODS = (CAA, BASE)
PICTURE_SIZE = (48, 64)
"""Rows and columns of a picture that no view shows as a whole."""


class OutpaintRecipe(PanoramaRecipe):
    """Panoramas of held-out toy rooms around what is given of them.

    Attributes:
        picture_numbers: Columns of the table of panoramas around pictures.
        picture_table: Its title and note.
    """

    command = "mvdiff quickstart outpaint"
    title = "mvdiff quickstart: a view to a panorama"
    making = "continuing the first view of {s.test_rooms} rooms"
    metrics = ("given", "overlap_psnr", "toy_fid", "caption_agreement", "sharpness")
    picture_numbers: ClassVar[tuple[Number, ...]] = (
        Number.of(KNOWN, name="given pixels, not put back", digits=1),
        Number.of(PSNR, name="overlap PSNR, all neighbours", digits=1),
    )
    numbers = (
        Number.of(GIVEN, name="neighbours against the given view", digits=1),
        *picture_numbers,
        OF_TRUTH,
        Number.of(FID),
        Number.of(CONTENT, name="object and colour read as captioned", digits=2),
        SHARP,
    )
    differences = (
        Number.of(GIVEN, name="neighbours against the given view", better=None),
        Number.of(KNOWN, name="given pixels, not put back", better=None),
        *PanoramaRecipe.differences,
    )
    tables_say = (
        (
            "Held-out rooms around their first view",
            "{num_panoramas} panoramas of 8 views at 64x64, of which view 0 is given; 95% intervals over "
            "panoramas. Neighbours against the given view: its real pixels warped into the views beside it, which were "
            "generated. Toy FID: the project's {feature_network[name]} network ({feature_network[weights_hash]:.12}) "
            "against {num_reference_panoramas} training rooms; not comparable with Inception scores.",
        ),
        (
            "Paired differences, same given views, captions and seeds",
            "Positive: more than the base. Only attention to the right neighbours may raise what neighbours share.",
        ),
    )
    picture_table: ClassVar[tuple[str, str]] = (
        "The same rooms around a picture that no view shows as a whole",
        "{s.pictures} pictures of 4:3 with a field of view of {s.fov:g} degrees, at yaw {s.yaw:g} and pitch "
        "{s.pitch:g}, warped into the views that they reach.",
    )
    config = "toy/outpaint.yaml"
    known = "first"
    validation = "validation rooms"
    before = "inpainting base on the validation rooms, before any training"
    further = "training the attention of {s.init_adapter} further, {s.continue_steps} steps"
    further_run = "continued"
    further_story = (
        "The panoramas were made with the attention weights of {s.init_adapter}, trained further here on given views "
        "for {s.continue_steps} steps: minutes are too few to train them from scratch."
    )
    settings: OutpaintSettings

    def check(self) -> None:
        """Open adapter and base, and warp a blank picture."""
        adapter_folder(self.settings.init_adapter)
        base = load_backbone(self.settings.base)
        OutpaintTask().check_base(base.unet, base.latent_channels)
        self._given(torch.zeros(3, *PICTURE_SIZE), "image")

    def given_picture(self, index: int) -> GivenViews:
        """Cut a picture of 4:3 out of a held-out panorama, and warp it into the views."""
        dataset, settings = self.held_out(), self.settings
        camera = Rig([(settings.yaw, settings.pitch, settings.fov)], *PICTURE_SIZE)
        pixels = PanoramaDataset(dataset.source, camera, indices=dataset.indices)[index]["images"][0]
        return self._given(pixels, f"picture {index}")

    def _given(self, pixels: torch.Tensor, name: str) -> GivenViews:
        settings = self.settings
        picture = GivenImage(pixels, settings.fov, settings.yaw, settings.pitch, name=name)
        return given_views([picture], self.rig)

    def picture_folder(self, method: str) -> Path:
        """Return the folder of a method's samples around pictures."""
        return self.settings.out / "pictures" / FOLDERS[method]

    def picture_batches(self) -> list[MultiViewBatch]:
        """Return the first held-out panoramas with a picture given."""
        dataset, samples = self.held_out(), []
        for index in range(self.settings.pictures):
            given = self.given_picture(index)
            fields = {"images": given.images, "known": given.known, "notes": {"pictures": given.pictures}}
            samples.append(dataset[index] | fields)
        return self.batches(samples)

    def more_samples(self, pipeline: MultiViewPipeline) -> Steps:
        """Continue pictures, with and without attention."""
        batches, count = self.picture_batches(), self.settings.pictures
        return {
            f"continuing {count} pictures: {method.name}": partial(
                self.write, method, batches, self.picture_folder(method.name)
            )
            for method in sampled_methods(pipeline, self.settings.batch_size)
            if method.name in PICTURE_METHODS
        }

    def score(self, outcome: Outcome) -> Results:
        """Score all methods, and the panoramas around pictures."""
        scored = super().score(outcome)
        samples = {method: self.picture_folder(method) for method in PICTURE_METHODS}
        passes, how = [(("given", "overlap_psnr"), None)], evaluation_settings(self.settings.seed)
        results = evaluate_methods(samples, passes, how, self.settings.out / "scores" / "pictures")
        outcome.scores["pictures"] = numbers_of(self.picture_numbers, results)
        return scored

    def tables(self, outcome: Outcome) -> list[Table]:
        """Return also the table of panoramas around pictures."""
        title, note = self.picture_table
        pictures = table_of(title, self.picture_numbers, outcome.scores["pictures"], self.text(note))
        return [*super().tables(outcome), pictures]

    def sentences(self, outcome: Outcome) -> list[str]:
        """Describe the results in sentences, the given view first."""
        methods, differences = outcome.scores["methods"], outcome.scores["differences"]
        base, caa, real = (methods[name][GIVEN].estimate for name in (BASE, CAA, TRUTH))
        gain = differences[CAA][GIVEN]
        says = "continue the given view" if gain.is_above(0) else "do not continue the given view beyond the interval"
        if gain.ends is None:
            says = "show the given view, in too few samples for an interval"
        controls = ", ".join(f"{differences[name][GIVEN].estimate:+.1f}" for name in CONTROLS)
        known, limit = (methods[name][KNOWN].estimate for name in (CAA, ROUND_TRIP))
        return [
            f"With CAA the neighbours {says}: {caa:.1f} dB against its pixels, without CAA {base:.1f} dB (real "
            f"neighbours {real:.1f} dB); paired {signed(gain)}, the controls {controls} dB.",
            f"The given pixels come back at {known:.1f} dB before they are put back (autoencoder round trip "
            f"{limit:.1f} dB).",
            *super().sentences(outcome),
        ]

    def sections(self, outcome: Outcome) -> dict[str, Any]:
        """Show also what was given of pictures, and what was made of it."""
        parts = super().sections(outcome)
        return parts | {"galleries": [*parts["galleries"], *self.picture_galleries()]}

    def picture_galleries(self) -> list[Gallery]:
        """Show what was given of the views, in grey where nothing was, and what was made of it."""
        labels, galleries = view_labels(self.rig.yaw_deg, self.rig.pitch_deg), []
        folders = {method: self.picture_folder(method) for method in (BASE, CAA)}
        for number, samples in enumerate(opened(folders, self.settings.pictures), start=1):
            pixels, known = (part.permute(0, 2, 3, 1).numpy() for part in samples[CAA].given())
            rows = {"given": list(np.where(known > 0, pixels, 128).astype(np.uint8))}
            rows |= {method: channels_last(sample.images_uint8()) for method, sample in samples.items()}
            prompts = samples[CAA].record.prompts
            galleries.append(Gallery(rows, f"room {number} around a picture", labels, prompts))
        return galleries
