"""The names of weight files in a folder of diffusers or transformers, and which of them are opened."""

from __future__ import annotations

import re
from pathlib import Path

_SHARD = r"(-\d{5}-of-\d{5})?"
_NAME = re.compile(
    rf"(?:diffusion_pytorch_model|pytorch_model|model){_SHARD}(?:\.(?P<variant>\w+))?{_SHARD}\.(?P<kind>safetensors|bin)"
)
_PREFERRED = ("", "fp32", "fp16", "bf16", "ema", "non_ema")


def weight_files(folder: Path) -> tuple[str | None, list[Path]]:
    """Return the variant of a folder's weights that is opened, None for files without one, and its files.

    Whole weights come before variants, float32 before float16 and bfloat16, safetensors before `.bin`, and weights that
    are no moving average last. Names are those of the two libraries, such as `diffusion_pytorch_model.safetensors`,
    `model.fp16.safetensors`, `pytorch_model.bf16.bin` and `diffusion_pytorch_model.fp16-00001-of-00002.safetensors`.
    """
    found: dict[tuple[str, str], list[Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if match := _NAME.fullmatch(path.name):
            found.setdefault((match["variant"] or "", match["kind"]), []).append(path)
    if not found:
        return None, []
    rank = {name: place for place, name in enumerate(_PREFERRED)}
    variant, kind = min(found, key=lambda key: (rank.get(key[0], len(rank)), key[0], key[1] != "safetensors"))
    return variant or None, found[variant, kind]
