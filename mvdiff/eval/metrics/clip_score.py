"""CLIP score between views and their prompts, with open_clip or a transformers CLIP folder.

`100 max(0, cos(image, text))` (Hessel et al. 2021 without the factor 2.5), averaged over the views of a sample, then
over samples. The paper names no CLIP model, so results always record the model's name and weight hash.

Axes: N images, E embedding dimensions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from huggingface_hub import is_offline_mode
from torch import Tensor

from mvdiff.eval.extractors import UNREADABLE, first_line
from mvdiff.eval.feature_cache import Cached
from mvdiff.eval.metric import Column, MissingMetricError, PerSampleMetric, Result
from mvdiff.eval.sample import ScoredSample
from mvdiff.eval.weights import file_hash, module_hash
from mvdiff.files.refusals import UnsafeFile, plain_refusals
from mvdiff.hub_models import open_transformers
from mvdiff.text_context import TextContext, is_empty

DEFAULT_WEIGHTS = "openai"


@dataclass
class ClipScorer(Cached):
    """A CLIP model with its name and weight hash; see `mvdiff.eval.feature_cache` for its cache.

    Attributes:
        name: Library, architecture and weights.
        weights_hash: SHA-256 of the weights, in hex.
        embed: Function from uint8 images [N, 3, H, W] and N texts to image and text embeddings, each [N, E].
        context: Context of the text encoder.
        variant: Description of the image preprocessing, for results.
    """

    name: str
    weights_hash: str
    embed: Callable[[Tensor, Sequence[str]], tuple[Tensor, Tensor]]
    context: TextContext
    variant: str = ""

    def of_sample(self, sample: ScoredSample, batch_size: int = 32) -> Tensor:
        """Score the views of a sample against their prompts: [V] float64, see `__call__`.

        A cached score also depends on the other views and prompts of its pass: texts are padded to the longest.
        """
        if self.cache is None or not self.weights_hash or len(sample.prompts) != len(sample.images_uint8):
            return self(sample.images_uint8, sample.prompts, batch_size)
        about = {"network": f"CLIP score, {self.name}", "weights_hash": self.weights_hash, "variant": self.variant}
        parts = []
        for start in range(0, len(sample.prompts), batch_size):
            images, prompts = (part[start : start + batch_size] for part in (sample.images_uint8, sample.prompts))
            shared = json.dumps([sample.pixel_hashes[start : start + batch_size], prompts])
            keys = [hashlib.sha256(f"{view} {shared}".encode()).hexdigest() for view in range(len(prompts))]
            compute = partial(self._named, images, prompts)
            parts.append(self.cache.fetch(about | {"batch": len(prompts)}, keys, compute)["scores"])
        return torch.cat(parts)[:, 0]

    def _named(self, images: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
        return {"scores": self(images, prompts, len(images))[:, None]}

    def __call__(self, images_uint8: Tensor, prompts: Sequence[str], batch_size: int = 32) -> Tensor:
        """Score each image against its prompt.

        Args:
            images_uint8: [N, 3, H, W] uint8.
            prompts: N texts, truncated to the model's context length.
            batch_size: Images per forward pass.

        Returns:
            [N] float64 scores in [0, 100], on the CPU.

        Raises:
            ValueError: The numbers of images and prompts differ, or the images are not uint8.
        """
        if images_uint8.dtype != torch.uint8:
            raise ValueError(f"images_uint8 must be uint8; got {images_uint8.dtype}.")
        if len(prompts) != len(images_uint8):
            raise ValueError(f"prompts must hold one text per image ({len(images_uint8)}); got {len(prompts)}.")
        scores = []
        with torch.no_grad():
            for start in range(0, len(prompts), batch_size):
                stop = start + batch_size
                image, text = self.embed(images_uint8[start:stop], list(prompts[start:stop]))
                cosine = torch.nn.functional.cosine_similarity(image.double(), text.double(), dim=-1)
                scores.append(100 * cosine.clamp(min=0).cpu())
        return torch.cat(scores)


def clip_scorer(
    clip_model: str | Path = "ViT-B-16", clip_weights: str | Path | None = None, device: str | torch.device = "cpu"
) -> ClipScorer:
    """Load a CLIP model.

    Args:
        clip_model: An open_clip architecture (`ViT-B-16`), or a folder with a transformers CLIPModel.
        clip_weights: For open_clip: a local .pt or .safetensors file, or a tag of its model zoo; None: `openai`.
            OpenAI's weights need QuickGELU activations. The tag sets them; for a local file of OpenAI's weights, use
            the architecture `ViT-B-16-quickgelu`.
        device: Device of the model.

    Raises:
        FileNotFoundError: The weights are not local and cannot be downloaded.
        ValueError: The architecture is unknown, or the file does not match it.
    """
    if Path(clip_model).is_dir():
        return _transformers_scorer(Path(clip_model), device)
    return _open_clip_scorer(str(clip_model), clip_weights, device)


class ClipScore(PerSampleMetric):
    """CLIP score between every view and its prompt."""

    name = "clip_score"
    columns = (Column("clip_score", "CLIP score", higher_is_better=True),)
    load_network = staticmethod(clip_scorer)
    totals = ("num_images", "num_prompts_cut", "num_prompts_empty")

    @property
    def variant(self) -> str:
        """Averages and the preprocessing of images."""
        return "; ".join(filter(None, ["100 max(0, cosine), mean over views, then samples", self.network.variant]))

    def measure(self, sample: ScoredSample) -> dict[str, float]:
        """Average the scores of a sample's views.

        Raises:
            ValueError: The sample has no prompts, or a score is not finite.
        """
        if not sample.prompts:
            raise ValueError(
                "prompts must hold one text per view; got none. Put the prompt of <name>.png in <name>.txt beside it, "
                "or score sample folders."
            )
        scores = self.network.of_sample(sample, self.batch_size)
        cut = self.network.context.cut(sample.prompts)
        return {
            "clip_score": float(scores.mean()),
            "num_images": len(scores),
            "num_prompts_cut": sum(prompt in cut for prompt in sample.prompts),
            "num_prompts_empty": sum(map(is_empty, sample.prompts)),
        }

    def compute(self) -> dict[str, Result | MissingMetricError]:
        """Average over samples; a note counts prompts that CLIP reads only in part, or that are empty."""
        results = super().compute()
        result = results["clip_score"]
        if isinstance(result, Result):
            cut, empty = result.n["num_prompts_cut"], result.n["num_prompts_empty"]
            notes = [
                f"{cut} of {result.n['num_images']} prompts have more than {self.network.context.length} tokens; CLIP "
                "reads the first of them only"
            ] * bool(cut)
            notes += [f"{empty} of {result.n['num_images']} prompts are empty"] * bool(empty)
            result.note = "; ".join(notes) or None
        return results


def _open_clip_scorer(model: str, weights: str | Path | None, device: str | torch.device) -> ClipScorer:
    import open_clip
    from safetensors import SafetensorError
    from torchvision.transforms.functional import to_pil_image

    if model not in open_clip.list_models():
        raise ValueError(
            f"clip_model must be an open_clip architecture or a folder with a CLIPModel; got {model!r}. "
            "List them with open_clip.list_models()."
        )
    weights = str(weights) if weights is not None else DEFAULT_WEIGHTS
    local = Path(weights).is_file()
    tags = open_clip.list_pretrained_tags_by_model(model.removesuffix("-quickgelu"))
    if not local and weights not in tags:
        raise FileNotFoundError(_missing_clip(model, f"{weights!r}, which is neither a file nor one of {tags}"))
    quick_gelu = weights == "openai" and not local
    try:
        with plain_refusals("clip_weights", weights):
            net, _, preprocess = open_clip.create_model_and_transforms(
                model, pretrained=weights, force_quick_gelu=quick_gelu, weights_only=True
            )
    except UnsafeFile:
        raise
    except (*UNREADABLE, SafetensorError) as error:
        reason = first_line(error)
        if local:
            raise ValueError(f"clip_weights must be weights of {model}; got {reason}, in {weights}.") from error
        failed = f"whose download failed ({reason})"
        lacking = "which is not in the cache (no download: offline)" if is_offline_mode() else failed
        raise FileNotFoundError(_missing_clip(model, f"{weights!r}, {lacking}")) from error
    net = net.to(device).eval()
    tokenizer = open_clip.get_tokenizer(model)

    def embed(images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        pixels = torch.stack([preprocess(to_pil_image(image.cpu())) for image in images]).to(device)
        return net.encode_image(pixels), net.encode_text(tokenizer(prompts).to(device))

    name, weights_hash = Path(weights).name if local else weights, file_hash(weights) if local else module_hash(net)
    resizing = net.visual.preprocess_cfg
    variant = _preprocessing(resizing["interpolation"], resizing["size"], resizing["resize_mode"])
    return ClipScorer(f"open_clip {model} ({name})", weights_hash, embed, TextContext.of_open_clip(tokenizer), variant)


def _transformers_scorer(folder: Path, device: str | torch.device) -> ClipScorer:
    from torchvision.transforms.functional import to_pil_image
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    try:
        with plain_refusals("clip_model", folder):
            local = {"local_files_only": True}
            net, report = open_transformers(CLIPModel, folder, output_loading_info=True, **local)
            tokenizer = open_transformers(CLIPTokenizer, folder, **local)
            processor = open_transformers(CLIPImageProcessor, folder, **local)
    except UnsafeFile:
        raise
    except Exception as error:  # wrong types in a config fail in any way
        raise ValueError(
            "clip_model must be a folder with CLIPModel, tokenizer and preprocessor files; got "
            f"{first_line(error)}, in {folder}."
        ) from error
    if report["missing_keys"] or report["mismatched_keys"]:
        raise ValueError(
            f"clip_model must hold every weight of CLIPModel; got {len(report['missing_keys'])} missing, e.g. "
            f"{sorted(report['missing_keys'])[:1]}, in {folder}."
        )
    net = net.to(device).eval()
    length = net.config.text_config.max_position_embeddings

    def embed(images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        pixels = processor([to_pil_image(image.cpu()) for image in images], return_tensors="pt")["pixel_values"]
        tokens = tokenizer(list(prompts), padding=True, truncation=True, max_length=length, return_tensors="pt")
        image = net.get_image_features(pixel_values=pixels.to(device)).pooler_output
        text = net.get_text_features(**tokens.to(device)).pooler_output
        return image, text

    context = TextContext.of_tokenizer(tokenizer, length)
    variant = "uint8, image processor of the folder"
    return ClipScorer(f"transformers CLIPModel {folder.name}", module_hash(net), embed, context, variant)


def _preprocessing(filter_name: str, size: int | Sequence[int], mode: str) -> str:
    size = size if isinstance(size, int) else max(size)
    how = {
        "shortest": f"of the shorter side to {size}, centre crop",
        "longest": f"of the longer side to {size}, padding",
    }
    return f"uint8, antialiased PIL {filter_name} resize {how.get(mode, f'to {size}x{size}')}"


def _missing_clip(model: str, got: str) -> str:
    return (
        f"clip_weights must be a weight file or a tag of open_clip's model zoo for {model}; got {got}. Download the "
        "weights from the Hugging Face hub and set clip_weights to the file, or clip_model to a transformers folder."
    )
