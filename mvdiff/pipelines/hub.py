"""Upload model folders to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from mvdiff.models.loading import PACKAGED, is_hub_id
from mvdiff.pipelines.model_folder import ModelInfo


def check_shareable(info: ModelInfo) -> None:
    """Raise ValueError if a model refers to a local folder as its base or autoencoder."""
    for setting, name in (("base", info.base.id), ("vae", info.base.vae)):
        if name is not None and not is_hub_id(name) and not name.startswith(PACKAGED):
            raise ValueError(
                f"{setting} must be a hub id or a packaged name to upload a model; got {name!r}. Upload that folder "
                "too, and set pipeline.base to a BaseReference with its hub id."
            )


def check_repo_id(repo_id: str) -> None:
    """Raise ValueError unless `repo_id` is a valid repository name on the hub."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(
            "repo_id must be 'owner/name', or 'name' in the account of the token's owner; at most 96 letters, digits, "
            "'-', '_' and '.'; no part may start or end with '-' or '.', and '--', '..' and a final '.git' are not "
            f"allowed; got {repo_id!r}."
        ) from error


def upload_model_folder(
    folder: str | Path,
    repo_id: str,
    commit_message: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    create_pr: bool = False,
) -> None:
    """Upload a model folder, model card included; a missing repository is created.

    Args:
        folder: Folder written by `write_model_folder`.
        repo_id: "owner/name" on the hub, see `check_repo_id`.
        commit_message: Message of the commit; default: "Upload model folder".
        private: Make a new repository private; default: the owner's setting.
        token: Access token of the hub; default: the one that `hf auth login` saved.
        create_pr: Open a pull request instead of committing to the main branch.

    Raises:
        OSError: The hub cannot be reached, or refuses the upload.
    """
    api = HfApi(token=token)
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        message = commit_message or "Upload model folder"
        partial = ["**/.*.partial/**", ".*.partial/**"]  # left by a killed run
        api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message=message,
            create_pr=create_pr,
            ignore_patterns=partial,
        )
    except Exception as error:  # the exception classes of network failures differ between versions of the client
        reason = str(error).strip().partition("\n")[0]
        raise OSError(
            f"repo_id must be a hub repository that you can reach and write to; got {type(error).__name__} ({reason}), "
            f"with repo_id {repo_id!r}. Try `hf auth login`."
        ) from error
