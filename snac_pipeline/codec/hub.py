"""Codec folders: config.json + weights, local or on the Hugging Face hub, in the layout of the published models."""

import hashlib
import os
import pickle
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors.torch
import torch
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token, snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from torch import nn

from snac_pipeline.errors import PipelineError
from snac_pipeline.files import atomic_folder, write_json

if TYPE_CHECKING:
    from snac_pipeline.codec.model import SNAC

SAFETENSORS = "model.safetensors"
PICKLE = "pytorch_model.bin"
RUN_MODEL = "model"
"""Where in a run's folder the trained codec is."""
CODEC_FILES = {"config.json", SAFETENSORS, PICKLE}


def resolve(
    source: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    token: str | bool | None = None,
    files: Collection[str] = CODEC_FILES,
    kind: str = "codec",
) -> Path:
    """The local folder of a codec: `source` itself when it is a folder, else the hub's snapshot of that id.

    A training run's folder stands for the model in it.
    files, kind: for something else than a codec, the files to have and what errors call it.
    revision, cache_dir, local_files_only, force_download, token: as in huggingface_hub; HF_HUB_OFFLINE=1 is honoured.
    Raises PipelineError, in one sentence, for an id that does not exist or cannot be reached.
    """
    name = str(source)
    if name and Path(source).is_dir():
        folder, trained = Path(source), Path(source) / RUN_MODEL
        return trained if (trained / "config.json").exists() and not (folder / "config.json").exists() else folder
    if isinstance(source, Path) or name.startswith((".", os.sep, "~")) or name.count("/") != 1:
        raise PipelineError(
            f"{name} is neither a folder nor a hub id; give a folder with {sorted(files)[0]}, or owner/name"
        )
    try:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                force_download=force_download,
                token=token,
                allow_patterns=sorted(files),
            )
        )
    except RevisionNotFoundError as error:
        raise PipelineError(f"the hub has no revision {revision!r} of {name}") from error
    except RepositoryNotFoundError as error:
        raise PipelineError(f"the hub has no {kind} {name} that you may read; check the id, or log in") from error
    except HFValidationError as error:
        raise PipelineError(f"{name} is neither a folder here nor a valid hub id (owner/name)") from error
    except LocalEntryNotFoundError as error:
        wanted = name if revision is None else f"{name} (revision {revision})"
        raise PipelineError(
            f"{wanted} is no folder here, is not in the local hub cache, and the hub cannot be reached; "
            "check the spelling or the connection, or give a folder"
        ) from error
    except Exception as error:
        # The transport's own errors (a proxy, a connection that breaks off), whose classes change with
        # huggingface_hub's version, and those of the disk that the cache is on.
        raise PipelineError(f"{name} could not be downloaded ({first_line(error)}); try again") from error


def first_line(error: Exception) -> str:
    """What fits in a sentence of an error message that may be a page, without the token that a hub may repeat."""
    text = str(error).strip() or type(error).__name__
    if token := get_token():
        text = text.replace(token, "<token>")
    return text.splitlines()[0][:200]


def load_weights(model: nn.Module, folder: Path) -> None:
    """Load the weights in `folder` strictly into `model`; PipelineError names what does not fit."""
    state = read_weights(folder)
    if not isinstance(state, dict):
        raise PipelineError(f"the weights in {folder} do not fit its config.json: {PICKLE} holds no state dict")
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]]
        raise PipelineError(
            f"the weights in {folder} do not fit its config.json: {lines[0][:300]}"
            + (f" (and {len(lines) - 1} more)" if len(lines) > 1 else "")
        ) from error


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The state dict in a codec folder: model.safetensors, or else pytorch_model.bin (loaded without code)."""
    try:
        if (folder / SAFETENSORS).exists():
            return safetensors.torch.load_file(folder / SAFETENSORS)
        if (folder / PICKLE).exists():
            state: dict[str, torch.Tensor] = torch.load(folder / PICKLE, map_location="cpu", weights_only=True)
            return state
    except pickle.UnpicklingError as error:
        # torch's message is a page about loading the file with code, which nobody should be led to.
        raise PipelineError(
            f"the weights in {folder} cannot be read ({PICKLE} is damaged or holds more than tensors); "
            "download or copy them again"
        ) from error
    except Exception as error:
        raise PipelineError(
            f"the weights in {folder} cannot be read ({first_line(error)}); download or copy them again"
        ) from error
    raise PipelineError(f"{folder} holds neither {SAFETENSORS} nor {PICKLE}")


def save(model: "SNAC", folder: Path) -> Path:
    """Write `model` as a codec folder, in place of the codec that is there.

    Raises PipelineError for a folder with anything else in it, which replacing the folder would remove.
    """
    others = sorted({path.name for path in folder.iterdir()} - CODEC_FILES) if folder.is_dir() else []
    if others:
        raise PipelineError(f"{folder} holds {others[0]}, which is no part of a codec; save into a new or empty folder")
    with atomic_folder(folder) as temporary:
        write_codec(model, temporary)
    return folder


def write_codec(model: "SNAC", folder: Path, *, pickled: bool = False) -> None:
    """Write config.json and model.safetensors into `folder`, and with `pickled` pytorch_model.bin, which is all that
    the PyPI package reads."""
    write_json(folder / "config.json", model.spec.to_dict())
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    safetensors.torch.save_file(state, folder / SAFETENSORS, metadata={"format": "pt"})
    if pickled:
        torch.save(state, folder / PICKLE)


def push(folder: Path, name: str, message: str, *, private: bool = False) -> str:
    """Upload the files of a codec folder to the hub as one commit, into a model repository that is made if need be.

    Weights of an earlier codec there that `folder` lacks are deleted in the same commit. The token is that of the
    environment (HF_TOKEN) or of a login. Returns the commit's address.
    Raises PipelineError, in one sentence, when the hub cannot be reached or does not take it.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file())
    hub = HfApi()
    try:
        repository = hub.create_repo(name, exist_ok=True, private=private or None).repo_id
        gone = CODEC_FILES & set(hub.list_repo_files(repository)) - {file.name for file in files}
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationAdd(path_in_repo=file.name, path_or_fileobj=file) for file in files
        ]
        operations += [CommitOperationDelete(path_in_repo=name) for name in sorted(gone)]
        return hub.create_commit(repository, operations, commit_message=message).commit_url
    except HFValidationError as error:
        raise PipelineError(f"{name} is no valid hub id; give owner/name") from error
    except OfflineModeIsEnabled as error:
        raise PipelineError(f"HF_HUB_OFFLINE is set, so {name} cannot be uploaded; unset it and run again") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        mend = "set HF_TOKEN to a token that may write there" if status in (401, 403) else "try again later"
        raise PipelineError(f"the hub did not take {name} ({first_line(error)}); {mend}") from error
    except Exception as error:  # the transport's own errors; see `resolve`
        raise PipelineError(
            f"{name} could not be uploaded ({first_line(error)}); check the connection, and run again"
        ) from error


def weights_digest(state: dict[str, torch.Tensor], prefixes: tuple[str, ...] = ("",)) -> str:
    """A digest of the tensors whose keys start with one of `prefixes`: names, types, shapes and bytes.

    Independent of the file format, so that the same weights as .bin and .safetensors have one digest.
    """
    hasher = hashlib.blake2b(digest_size=16)
    for key in sorted(k for k in state if k.startswith(prefixes)):
        tensor = state[key].detach().cpu().contiguous()
        hasher.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()
