"""Panoramas from sketches: the UNet also takes the edges of each view."""

from dataclasses import replace

import torch
from torch.nn.functional import avg_pool2d

from mvdiff.eval.overlap import overlap_psnr
from mvdiff.models.conditioning import add_input_channels
from mvdiff.tasks.task import Condition, Task


class SketchTask(Task):
    """The UNet's input is [noisy latent | edges]; correspondences come from K and R."""

    name = "sketch"

    def check_base(self, unet, latent_channels):
        if (found := unet.config.in_channels) != latent_channels + 1:
            raise ValueError(f"base must take {latent_channels} + 1 channels, latents and edges; got {found}.")

    def add_input(self, unet):
        add_input_channels(unet, 1)

    def correspondences(self, batch):
        return replace(batch, depths=None)

    def condition(self, batch, encoder):
        grey = batch.images.mean(dim=2)  # [B, V, H, W]
        steps = torch.diff(grey, dim=-1, prepend=grey[..., :1])
        edges = avg_pool2d(steps.abs(), encoder.vae_stride)
        return Condition(channels=edges[:, :, None])

    def overlap_psnr(self, views, batch, index):
        K, R, valid = (values[index].cpu() for values in (batch.K, batch.R, batch.view_valid))
        return overlap_psnr(views[valid], K[valid], R[valid], size=None)["overlap_psnr_mean_of_pairs"]
