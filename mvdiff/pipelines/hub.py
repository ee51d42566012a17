"""Put model folders on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from mvdiff.models.loading import PACKAGED, is_hub_id
from mvdiff.pipelines.model_folder import ModelInfo


def check_shareable(info: ModelInfo) -> None:
    """Check that another machine can find the base of a model.

    Raises:
        ValueError: the base, or the autoencoder in its place, is a folder of this machine.
    """
    for setting, name in (("base", info.base.id), ("vae", info.base.vae)):
        if name is not None and not is_hub_id(name) and not name.startswith(PACKAGED):
            raise ValueError(
                f"{setting} must be a hub id or one that comes with the package where a model is uploaded; got "
                f"{name!r}. Upload that folder, too, and set pipeline.base to a BaseReference with its hub id."
            )


def check_repo_id(repo_id: str) -> None:
    """Check that the hub can have a repository of a name.

    Raises:
        ValueError: it cannot.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(
            "repo_id must be 'owner/name', or 'name' below the token's owner, of at most 96 letters, digits, '-', '_' "
            "and '.', with neither '-' nor '.' at either end of a part, without '--' and '..', and no '.git' at the "
            f"end; got {repo_id!r}. Choose another, as 'owner/my-model'."
        ) from error


def upload_model_folder(
    folder: str | Path,
    repo_id: str,
    commit_message: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    create_pr: bool = False,
) -> str:
    """Upload a model folder, model card included; the repository is made where there is none.

    Args:
        folder: what `write_model_folder` wrote.
        repo_id: "owner/name" on the hub.
        commit_message: default "Upload model folder".
        private: whether a new repository is private; default as the owner's settings say.
        token: of the hub; default the one that `hf auth login` saved.
        create_pr: open a pull request in place of a commit.

    Returns:
        The address of the commit or pull request.

    Raises:
        OSError: the hub cannot be reached or does not allow it.
        ValueError: repo_id is no such name.
    """
    check_repo_id(repo_id)
    api = HfApi(token=token)
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        return str(
            api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message=commit_message or "Upload model folder",
                create_pr=create_pr,
            )
        )
    except Exception as error:  # what a network can do wrong has no narrower name in every version of the client
        raise OSError(
            f"model must be uploaded to a hub repository that can be reached and written; got {type(error).__name__} "
            f"({_first_line(error)}), with repo_id {repo_id!r}. Check the network, the name, and `hf auth login`."
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0]
