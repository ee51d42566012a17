"""Judge a toy base: what the judge network reads in single views generated from held-out captions.

    mvdiff data toyworld runs/toy/world --rooms 1300 --test_rooms 100 --seed 1 --num_frames 0
    python benchmarks/toy_base.py --root runs/toy/world/mp3d_skybox --panoramas 24 --picture samples.png

Prints, for the held-out views themselves and for the base's samples of their captions, how often object, colour and
walls are read as captioned. The picture shows generated views above the real ones, room by room.
"""

import argparse

import torch
from PIL import Image

from mvdiff.data.datamodule import Matterport3DDataModule
from mvdiff.data.toyworld.truth import read_truth
from mvdiff.denoising import denoise, guided
from mvdiff.diffusion import view_noise
from mvdiff.eval.features import ToyFeatureNet, caption_agreement, packaged_toy_features
from mvdiff.models.backbone import load_backbone
from mvdiff.recipes.panorama import TOY_RIG
from mvdiff.training.callbacks import image_grid


def generate(base, prompts: list[str], seed: int, num_inference_steps: int, guidance_scale: float) -> torch.Tensor:
    shape = (base.latent_channels, 64 // base.vae_stride, 64 // base.vae_stride)
    noise = torch.stack([view_noise(seed, prompt, num_views=1, shape=shape)[0] for prompt in prompts])
    text, empty = base.encode_prompts(prompts), base.encode_prompts([""] * len(prompts))
    return base.decode_latents(
        denoise(guided(base.predict, text, empty, guidance_scale), base.scheduler, noise, num_inference_steps)
    )


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True)
    parser.add_argument("--base", default="mvdiff://toy-base")
    parser.add_argument("--panoramas", type=int, default=24)
    parser.add_argument("--num_inference_steps", type=int, default=20)
    parser.add_argument("--guidance_scale", type=float, default=3.0)
    parser.add_argument("--picture")
    args = parser.parse_args()

    base = load_backbone(args.base)
    judge = ToyFeatureNet.from_pretrained(packaged_toy_features())
    held_out = Matterport3DDataModule(args.root, TOY_RIG).test_dataset()
    counts = {
        name: {head: [] for head in ("object", "colour", "walls")} for name in ("held-out views", "base's samples")
    }
    rows = []
    for i in range(args.panoramas):
        sample = held_out[i]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            made = generate(base, sample["prompts"], 0, args.num_inference_steps, args.guidance_scale).float()
        facts = read_truth(args.root, sample["sample_id"])
        truth = [facts[degree] for degree in range(0, 360, 45)]
        for name, images in (("held-out views", sample["images"]), ("base's samples", made)):
            verdicts = caption_agreement(judge, images, truth)
            for head, found in counts[name].items():
                found += verdicts[head]
        rows += [made, sample["images"]]
    for name, heads in counts.items():
        read = ", ".join(f"{head} {sum(found) / len(found):.1%} of {len(found)}" for head, found in heads.items())
        print(f"{name}: {read}")
    if args.picture:
        Image.fromarray(image_grid(rows[:8])).save(args.picture)


if __name__ == "__main__":
    main()
