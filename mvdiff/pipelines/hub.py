"""Put model folders on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from mvdiff.models.loading import PACKAGED, is_hub_id
from mvdiff.pipelines.model_folder import ModelInfo


def check_shareable(info: ModelInfo) -> None:
    """Raise ValueError where the base of a model, or the autoencoder in its place, is a folder of this machine."""
    for setting, name in (("base", info.base.id), ("vae", info.base.vae)):
        if name is not None and not is_hub_id(name) and not name.startswith(PACKAGED):
            raise ValueError(
                f"{setting} must be a hub id or one that comes with the package where a model is uploaded; got "
                f"{name!r}. Upload that folder, too, and set pipeline.base to a BaseReference with its hub id."
            )


def check_repo_id(repo_id: str) -> None:
    """Raise ValueError where the hub cannot have a repository of a name."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(
            "repo_id must be 'owner/name', or 'name' below the token's owner, of at most 96 letters, digits, '-', '_' "
            "and '.', with neither '-' nor '.' at either end of a part, without '--' and '..', and no '.git' at the "
            f"end; got {repo_id!r}."
        ) from error


def upload_model_folder(
    folder: str | Path,
    repo_id: str,
    commit_message: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    create_pr: bool = False,
) -> None:
    """Upload a model folder, model card included; the repository is made where there is none.

    Args:
        folder: A folder of `write_model_folder`.
        repo_id: "owner/name" on the hub, see `check_repo_id`.
        commit_message: Default "Upload model folder".
        private: Make a new repository private; default as the owner's settings say.
        token: Token of the hub; default the one that `hf auth login` saved.
        create_pr: Open a pull request in place of a commit.

    Raises:
        OSError: The hub cannot be reached or does not allow it.
    """
    api = HfApi(token=token)
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        message = commit_message or "Upload model folder"
        api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message, create_pr=create_pr)
    except Exception as error:  # what a network can do wrong has no narrower name in every version of the client
        reason = str(error).strip().partition("\n")[0]
        raise OSError(
            f"model must be uploaded to a hub repository that can be reached and written; got {type(error).__name__} "
            f"({reason}), with repo_id {repo_id!r}. Try `hf auth login`."
        ) from error
