"""The numbers of notes/real-data.md that no command of mvdiff gives by itself.

    python benchmarks/real_data.py round_trip --config real/pano.yaml --out runs/real/round_trip
    python benchmarks/real_data.py losses --config real/pano.yaml --model runs/real/pano-model
    python benchmarks/real_data.py losses --config real/depth.yaml --model runs/real/depth-model

`round_trip` encodes and decodes the test views of a run and writes them as sample folders, for `mvdiff evaluate`.
`losses` measures the training loss on each test sample (a panorama, a window of frames), at fixed timesteps and noise:
for the base alone, with the trained attention, and for two controls. Intervals are over samples.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
import yaml

from mvdiff.batch import MultiViewBatch
from mvdiff.data.keyed_datamodule import MultiViewDataModule
from mvdiff.diffusion import multiview_noise_loss, training_noise
from mvdiff.eval.intervals import interval, mean, paired_difference
from mvdiff.eval.overlap import psnr_from_mse
from mvdiff.eval.sources import source_from_config
from mvdiff.models.autoencoder import decode_latents, encode_images, load_autoencoder
from mvdiff.pipelines.sample_folders import library_versions
from mvdiff.run_files import config_layers
from mvdiff.samples import SampleRecord, sample_folder, to_uint8, write_sample
from mvdiff.settings import Controls
from mvdiff.tasks.task import NO_CONTROLS, denoiser
from mvdiff.training.multi_view import MultiViewModule

BASE, CAA = "base without CAA", "with CAA"
FOREIGN, SILENT = "CAA, neighbours of another sample", "CAA, attention switched off"
NOISE_EPOCH = -2  # noise of its own, neither training's nor validation's


def read_run(configs: list[str]) -> tuple[MultiViewDataModule, dict[str, Any]]:
    """Return the data of a run and its model's settings; later files overlay earlier ones."""
    models = [yaml.safe_load(path.read_text(encoding="utf-8")).get("model", {}) for path in config_layers(configs)]
    settings = {name: value for model in models for name, value in model.get("init_args", {}).items()}
    return source_from_config(configs).data, settings


@torch.no_grad()
def round_trip(options: argparse.Namespace) -> None:
    data, settings = read_run(options.config)
    vae, dataset = load_autoencoder(settings["vae"]).eval(), data.test_dataset()
    psnr = []
    for i in range(len(dataset)):
        sample = dataset[i]
        images = sample["images"]
        decoded = decode_latents(vae, encode_images(vae, images))
        psnr.append(psnr_from_mse(float(((decoded - images) / 2).square().mean())))
        record = SampleRecord(
            sample["sample_id"],
            sample["prompts"],
            data.rig.to_dict(),
            settings={"autoencoder": type(vae).__name__},
            versions=library_versions(),
        )
        pixels = to_uint8(decoded).permute(0, 2, 3, 1)
        write_sample(sample_folder(options.out, sample["sample_id"]), record, pixels, overwrite=True)
        print(f"{sample['sample_id']}: {psnr[-1]:.2f} dB")
    print(f"views against themselves: {interval(mean, psnr)} dB, from {min(psnr):.2f} to {max(psnr):.2f}")


@torch.no_grad()
def held_out_losses(module: MultiViewModule, batch: MultiViewBatch, timesteps: list[int]) -> dict[str, torch.Tensor]:
    """Return each method's losses [B, number of timesteps]."""
    task, inputs, scheduler = module.task, module.inputs, module.backbone.scheduler
    latents, text = inputs.latents(batch), inputs.text(batch.prompts)
    condition = task.condition(batch, inputs.encoder(batch, latents))
    geometry = module.adapter.geometry(task.correspondences(batch), inputs.backbone.vae_stride)
    indices = batch.sample_index.tolist()
    others = Controls(neighbour_batch=[len(indices) - 1, *range(len(indices) - 1)])
    calls = {
        BASE: (None, NO_CONTROLS),
        CAA: (geometry, NO_CONTROLS),
        FOREIGN: (geometry, others),
        SILENT: (geometry, NO_CONTROLS),
    }
    losses = {}
    for method, call in calls.items():
        module.adapter.set_attention_enabled(method != SILENT)
        predict, columns = denoiser(module.unet, batch, condition, *call), []
        for t in timesteps:
            noise = training_noise(t, NOISE_EPOCH, indices, batch.num_views, latents.shape[2:])
            columns.append(
                multiview_noise_loss(
                    lambda noisy, steps, predict=predict: predict(noisy, steps, text),
                    scheduler,
                    latents,
                    noise,
                    torch.full((len(indices),), t),
                    reduction="none",
                )
            )
        losses[method] = torch.stack(columns, dim=1)
    module.adapter.set_attention_enabled(True)
    return losses


def losses(options: argparse.Namespace) -> None:
    data, settings = read_run(options.config)
    module = MultiViewModule(
        settings.get("task", "panorama"),
        base=settings["base"],
        vae=settings.get("vae"),
        init_adapter=options.model,
        prompt_prefix=settings.get("prompt_prefix"),
    )
    module.configure_model()
    module.eval()
    dataset = data.test_dataset()
    batch = MultiViewBatch.collate([dataset[i] for i in range(len(dataset))])
    measured = held_out_losses(module, batch, options.timesteps)
    per_sample = {method: values.mean(1).tolist() for method, values in measured.items()}
    base = per_sample[BASE]
    print(f"{len(base)} samples, timesteps {options.timesteps}")
    print(f"{'':38}{'loss':27}{'below the base by':32}samples below")
    for method, values in per_sample.items():
        fewer = f"{sum(a < b for a, b in zip(values, base, strict=True))} of {len(base)}"
        gain = "" if method == BASE else f"{paired_difference(base, values)!s:32}{fewer}"
        print(f"{method:38}{interval(mean, values)!s:27}{gain}")
    print("by timestep:   " + "".join(f"{t:>9}" for t in options.timesteps))
    for method, values in measured.items():
        print(f"{method[:14]:15}" + "".join(f"{statistics.fmean(column):9.4f}" for column in values.T.tolist()))
    if options.out:
        Path(options.out).write_text(json.dumps({"ids": batch.sample_id, "losses": per_sample}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    first = commands.add_parser("round_trip")
    first.add_argument("--config", nargs="+", default=["real/pano.yaml"])
    first.add_argument("--out", default="runs/real/round_trip")
    first.set_defaults(run=round_trip)
    second = commands.add_parser("losses")
    second.add_argument("--config", nargs="+", default=["real/pano.yaml"])
    second.add_argument("--model", default="runs/real/pano-model", help="model folder that fit wrote")
    second.add_argument("--timesteps", type=int, nargs="+", default=[100, 300, 500, 700, 900])
    second.add_argument("--out", help="write each sample's losses as JSON")
    second.set_defaults(run=losses)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
