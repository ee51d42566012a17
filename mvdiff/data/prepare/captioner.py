"""An image captioning model from transformers (BLIP-2, BLIP, ...)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from mvdiff.data.counts import check_counts
from mvdiff.files.refusals import UnsafeFile, plain_refusals, plain_text
from mvdiff.hub_models import open_transformers, pinned_revision, split_revision

BLIP2 = "Salesforce/blip2-opt-2.7b"
"""The most common BLIP-2; the paper does not say which one it used."""
DTYPES = ("auto", "float32", "float16", "bfloat16")


class Captioner:
    """Captions images by greedy, deterministic decoding.

    Args:
        model: Hub id, also "owner/name@revision", or folder of an image captioning model of transformers, with its
            processor.
        revision: Branch, tag or commit on the hub; None: that of `hub_models.COMMITS`, else main.
        device: "auto" (a GPU if available), "cpu", "cuda", ...
        dtype: "auto" (bfloat16 on a GPU, float32 on a CPU), "float32", "float16" or "bfloat16".
        prompt: Start of the captions, or a question to the model; removed from the caption.
        max_new_tokens: Largest length of a caption in tokens.

    Raises:
        FileNotFoundError: The model is not local and cannot be downloaded.
        ValueError: The model is not a captioning model or lacks weights, or a setting is invalid.
    """

    def __init__(
        self,
        model: str = BLIP2,
        revision: str | None = None,
        device: str = "auto",
        dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto",
        prompt: str = "",
        max_new_tokens: int = 40,
    ) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        if dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}; got {dtype!r}.")
        check_counts(max_new_tokens=max_new_tokens)
        self.device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        if dtype == "auto":
            dtype = "bfloat16" if self.device.type == "cuda" else "float32"
        self.dtype = getattr(torch, dtype)
        if not Path(model).exists():
            model, own = split_revision(model)
            revision = pinned_revision(model, revision or own)
        self.prompt = prompt
        self.max_new_tokens = max_new_tokens
        try:
            with plain_refusals("--model", model):
                self.processor = open_transformers(AutoProcessor, model, revision=revision)
                how = {"dtype": self.dtype, "output_loading_info": True}
                self.model, info = open_transformers(AutoModelForImageTextToText, model, revision=revision, **how)
        except UnsafeFile:
            raise
        except OSError as error:
            download = f"hf download {model}" + (f" --revision {revision}" if revision else "")
            raise FileNotFoundError(
                f"--model must be the folder or hub id of a captioning model; got {model!r}: {_first_line(error)} "
                f"Without a network, run `{download} --local-dir FOLDER` elsewhere and pass --model FOLDER."
            ) from error
        except Exception as error:  # wrong types in a config fail in any way
            raise ValueError(
                f"--model must be an image captioning model, such as {BLIP2}; got {model!r}: {_first_line(error)}"
            ) from error
        lacking = sorted(map(str, info["missing_keys"])) + sorted(map(str, info["mismatched_keys"]))
        if lacking:
            raise ValueError(
                f"--model must have all its weights; got {model!r}, which lacks {len(lacking)}, such as {lacking[0]}."
            )
        self.model = self.model.eval().to(self.device)

    @torch.no_grad()
    def __call__(self, images: Sequence[Tensor]) -> list[str]:
        """Caption images [3, H, W], uint8, of any sizes; return one line per image, which may be empty."""
        pictures = [Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy()) for image in images]
        texts = {"text": [self.prompt] * len(pictures), "padding": True} if self.prompt else {}
        inputs = self.processor(images=pictures, return_tensors="pt", **texts).to(self.device)
        inputs = {name: value.to(self.dtype) if value.is_floating_point() else value for name, value in inputs.items()}
        tokens = self.model.generate(**inputs, max_new_tokens=self.max_new_tokens, do_sample=False, num_beams=1)
        return [self._clean(text) for text in self.processor.batch_decode(tokens, skip_special_tokens=True)]

    def _clean(self, text: str) -> str:
        """Put a caption on one line and remove the prompt, which models repeat."""
        text = " ".join(text.split())
        prompt = " ".join(self.prompt.split())
        return text[len(prompt) :].strip() if text.lower().startswith(prompt.lower()) else text


def _first_line(error: BaseException) -> str:
    text = (plain_text(error).strip() or type(error).__name__).splitlines()[0]
    return text if text.endswith(".") else text + "."
