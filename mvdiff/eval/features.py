"""The toy judge: a small classifier of toy-world views, whose features also serve the toy FID and Inception Score.

`mvdiff.training.features` trains it on the toy world. Results name it `toy-features`, so a toy FID cannot be mistaken
for one of Inception features.

Axes: N images, D features.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mvdiff.data.toyworld.captions import NONE
from mvdiff.eval.weights import module_hash
from mvdiff.files.text import read_json_object
from mvdiff.files.writing import whole_folder, write_whole
from mvdiff.samples import from_uint8

NAME = "toy-features"
IMAGE_SIZE = 64
CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"


class ToyFeatureNet(nn.Module):
    """Classifier of views with several heads on shared features (own design, about 0.35 M parameters at width 32).

    Args:
        heads: Labels by head, e.g. `{"object": ["none", "sofa"], "colour": ["none", "red"], "walls": ["blue"]}`.
        width: Channels of the first layer; the last has four times as many.
        num_features: Length D of the feature vector.

    Raises:
        ValueError: `heads` is empty, a head has no labels, or a head is called "features".

    Example:
        >>> net = ToyFeatureNet({"object": ["none", "sofa"], "walls": ["blue", "green", "white"]})
        >>> out = net(torch.zeros(2, 3, 48, 80))
        >>> {name: tuple(value.shape) for name, value in out.items()}
        {'features': (2, 128), 'object': (2, 2), 'walls': (2, 3)}
    """

    name = NAME

    def __init__(self, heads: Mapping[str, Sequence[str]], width: int = 32, num_features: int = 128) -> None:
        super().__init__()
        if not heads or any(len(labels) == 0 for labels in heads.values()) or "features" in heads:
            raise ValueError(
                f"heads must name at least one head, each with labels and none called 'features'; got {dict(heads)!r}."
            )
        labels = {name: list(labels) for name, labels in heads.items()}
        self.config = {"heads": labels, "width": width, "num_features": num_features}
        self.num_features = num_features
        channels = [width, 2 * width, 3 * width, 4 * width]
        layers: list[nn.Module] = [_conv(3, width, stride=2)]
        for inner, outer in pairwise(channels):
            layers += [_conv(inner, inner), _conv(inner, outer, stride=2)]
        self.trunk = nn.Sequential(*layers)
        self.project = nn.Sequential(nn.Linear(2 * channels[-1], num_features), nn.SiLU())
        self.heads = nn.ModuleDict({name: nn.Linear(num_features, len(labels)) for name, labels in heads.items()})

    @property
    def labels(self) -> dict[str, list[str]]:
        """Labels of each head."""
        return self.config["heads"]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Compute the features and the logits of every head.

        Args:
            images: [N, 3, H, W], uint8 in [0, 255] or float in [-1, 1]; other sizes are resized to 64 x 64.

        Returns:
            `{"features": [N, D], <head>: [N, number of labels], ...}`.
        """
        if images.dtype == torch.uint8:
            images = from_uint8(images)
        images = images.to(next(self.parameters()).dtype)
        if images.shape[-2:] != (IMAGE_SIZE, IMAGE_SIZE):
            images = F.interpolate(images, (IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", antialias=True)
        hidden = self.trunk(images)
        pooled = torch.cat([hidden.mean(dim=(2, 3)), hidden.amax(dim=(2, 3))], dim=1)
        features = self.project(pooled)
        return {"features": features, **{name: head(features) for name, head in self.heads.items()}}

    def predict(self, images: Tensor, batch_size: int = 64) -> dict[str, list[str]]:
        """Predict the labels of images [N, 3, H, W] without gradients: N labels per head.

        The caller sets evaluation mode.

        Raises:
            ValueError: A logit is NaN or infinite.
        """
        names: dict[str, list[str]] = {head: [] for head in self.labels}
        device = next(self.parameters()).device
        with torch.no_grad():
            for chunk in images.split(batch_size):
                out = self(chunk.to(device))
                if not all(bool(torch.isfinite(out[head]).all()) for head in self.labels):
                    raise ValueError("logits must be finite; got NaN or infinity.")
                for head, labels in self.labels.items():
                    names[head] += [labels[i] for i in out[head].argmax(dim=1).tolist()]
        return names

    def weights_hash(self) -> str:
        """Return the SHA-256 of the weights, in hex."""
        return module_hash(self)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write `config.json` and `model.safetensors`, in the module's dtype, to a folder; create it if absent."""
        from safetensors.torch import save_file

        folder = Path(folder)
        with whole_folder(folder) as new:
            save_file({k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}, new / WEIGHTS_NAME)
            write_whole(new / CONFIG_NAME, json.dumps({"name": NAME, **self.config}, indent=1) + "\n")
        return folder

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> ToyFeatureNet:
        """Load a network from a folder written by `save_pretrained`, in float32 and evaluation mode.

        Raises:
            FileNotFoundError: A file is missing.
            ValueError: The folder holds another network.
        """
        from safetensors.torch import load_file

        folder = Path(folder)
        for name in (CONFIG_NAME, WEIGHTS_NAME):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"toy_features must be a folder with {CONFIG_NAME} and {WEIGHTS_NAME}; {name} is missing, in "
                    f"{folder}."
                )
        try:
            config = read_json_object(folder / CONFIG_NAME)
            if config.pop("name", None) != NAME:
                raise ValueError(f"name must be {NAME!r}")
            heads = config.get("heads")
            if not isinstance(heads, dict) or not all(isinstance(labels, list) for labels in heads.values()):
                raise ValueError("heads must be lists of labels by name")
            with torch.device("meta"):  # the weights bring the memory: their file bounds it, not the config
                net = cls(**config)
            state = {k: v.float() for k, v in load_file(folder / WEIGHTS_NAME).items()}
            net.load_state_dict(state, assign=True)
        except Exception as error:  # a network from a wrong config can fail in any way
            raise ValueError(
                f"toy_features must be a folder with a ToyFeatureNet; got {error}, in {folder}."
            ) from error
        return net.eval()


def packaged_toy_features() -> Path:
    """Return the folder of the toy feature network that ships with the package."""
    return Path(__file__).parents[1] / "assets" / NAME


@dataclass(frozen=True)
class ToyJudge:
    """The toy feature network with its weight hash and name, as a metric's `network`."""

    net: ToyFeatureNet
    weights_hash: str
    name: str = NAME


def toy_judge(toy_features: str | Path | None = None, device: str | torch.device = "cpu") -> ToyJudge:
    """Load the toy feature network from a folder; None: the packaged one. Errors: `ToyFeatureNet.from_pretrained`."""
    net = ToyFeatureNet.from_pretrained(toy_features or packaged_toy_features()).to(device)
    return ToyJudge(net, net.weights_hash())


def caption_agreement(
    net: ToyFeatureNet,
    images: Tensor,
    truth: Sequence[Mapping[str, str] | None],
    batch_size: int = 64,
    heads: Sequence[str] | None = None,
) -> dict[str, list[bool]]:
    """Compare the network's label of each view with the true one (own protocol).

    Args:
        net: The judge, in evaluation mode.
        images: [N, 3, H, W], uint8 or float in [-1, 1].
        truth: True labels by head for each image, e.g. `{"object": "sofa", "colour": "red", "walls": "blue"}`, or None
            to skip the image. Heads that are absent or `"none"` are not judged.
        batch_size: Images per forward pass.
        heads: Heads to judge; None: all. Labels of other heads are ignored.

    Returns:
        Verdicts by head, one bool per judged view, and under `"all"` one bool per view in which every head is judged:
        True if all agree.

    Raises:
        ValueError: The number of entries differs from N, or `truth` or `heads` has a head or label unknown to the
            network.
    """
    judged = list(net.labels) if heads is None else list(heads)
    if not judged or not set(judged) <= set(net.labels):
        raise ValueError(f"judge_heads must be among {', '.join(net.labels)}; got {judged}.")
    if len(truth) != len(images):
        raise ValueError(f"truth must have one entry per image ({len(images)}); got {len(truth)}.")
    if heads is not None:
        truth = [entry and {head: label for head, label in entry.items() if head in judged} for entry in truth]
    for index, entry in enumerate(truth):
        for head, label in (entry or {}).items():
            if label not in net.labels.get(head, ()):
                raise ValueError(
                    f"truth must use the judge's heads and labels {net.labels}; got {head}={label!r}, in view {index}."
                )
    predicted = net.predict(images, batch_size)
    verdicts: dict[str, list[bool]] = {head: [] for head in judged} | {"all": []}
    for index, entry in enumerate(truth):
        if entry:
            agree = {head: predicted[head][index] == label for head, label in entry.items() if label != NONE}
            for head, verdict in agree.items():
                verdicts[head].append(verdict)
            if len(agree) == len(judged):
                verdicts["all"].append(all(agree.values()))
    return verdicts


def _conv(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    groups = next(g for g in (8, 4, 2, 1) if channels_out % g == 0)
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False),
        nn.GroupNorm(groups, channels_out),
        nn.SiLU(),
    )
