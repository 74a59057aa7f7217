"""Weights from a hub repository, by huggingface_hub, which keeps its own cache.

    hf://owner/repo, hf://owner/repo@revision, hub:owner/repo

HF_HUB_OFFLINE, HF_ENDPOINT, HF_HOME and tokens mean what they mean to that library.
"""

import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import EnvironmentFault, Failure, UserError
from engine.run.run_folder import WEIGHTS

PREFIXES = ("hf://", "hub:")
PLACE = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
EXTRA = "pip install -e '.[hub]'"
# Of huggingface_hub's errors, what a person mends; everything else may be the moment's.
USERS = (
    "RepositoryNotFoundError",
    "RevisionNotFoundError",
    "EntryNotFoundError",
    "GatedRepoError",
    "DisabledRepoError",
    "HFValidationError",
    "BadRequestError",
    "LocalTokenNotFoundError",
)


@dataclass(frozen=True)
class HubPlace:
    """A repository, as "owner/name", and its revision; None: the newest."""

    repo: str
    revision: str | None


def is_hub(text: str) -> bool:
    """Return whether a text names a repository of a hub."""
    return text.startswith(PREFIXES)


def read_place(text: str, name: str) -> HubPlace:
    """Return the repository that a text names.

    Raises:
        UserError: it is none.
    """
    found = PLACE.fullmatch(_strip(text))
    if not found:
        raise UserError(f"{name}={text}: a repository is hf://owner/repo or hf://owner/repo@BRANCH")
    return HubPlace(found[1], found[2])


def read_repo(text: str) -> str:
    """Return the "owner/name" that ``repo=`` names, with or without hf:// before it.

    Raises:
        UserError: it is none, or names a revision, for a push makes one.
    """
    found = PLACE.fullmatch(_strip(text))
    if not found or found[2]:
        raise UserError(f"repo={text}: what is pushed to is OWNER/NAME, such as somebody/meshes")
    return found[1]


def _strip(text: str) -> str:
    for prefix in PREFIXES:
        text = text.removeprefix(prefix)
    return text


def fetch_weights(text: str, name: str) -> Path:
    """Return the file of a repository's weights, downloaded where it is not there.

    Args:
        name: of the key that gave the repository, for messages.
    Raises:
        UserError: huggingface_hub is missing; there is no such repository, revision or file.
        EnvironmentFault: no network.
    """
    place = read_place(text, name)
    library = import_hub()
    try:
        found = library.hf_hub_download(place.repo, WEIGHTS, revision=place.revision)
    except Exception as error:
        raise explain_hub_error(error, f"{name}={text}") from None
    return Path(found)


def import_hub() -> Any:
    """Return the module huggingface_hub.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError:
        raise UserError(
            f"repositories of a hub are read and written by huggingface_hub: {EXTRA}"
        ) from None


def explain_hub_error(error: Exception, what: str) -> Failure:
    """Return an exception of huggingface_hub, or of what it stands on, in one sentence.

    Args:
        what: was asked for.
    """
    kinds = [kind.__name__ for kind in type(error).__mro__]
    said = " ".join(str(error).split())[:300] or type(error).__name__
    if "LocalEntryNotFoundError" in kinds or "OfflineModeIsEnabled" in kinds:
        return EnvironmentFault(
            f"{what}: it is not in the cache of huggingface_hub, and the hub cannot be reached "
            f"(or HF_HUB_OFFLINE is set): {said}"
        )
    if any(kind in USERS for kind in kinds) or isinstance(error, PermissionError):
        return UserError(f"{what}: {said}")
    return EnvironmentFault(f"{what}: the hub cannot be used: {type(error).__name__}: {said}")
