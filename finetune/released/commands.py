"""``python -m finetune weights list|show|check|push``: released weights and their hub page."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.config.parser import parse_keys
from engine.errors import Failure, UserError, explain, failure_of
from engine.run.run_folder import WEIGHTS
from finetune.released.card import BODY_TERMS
from finetune.released.catalogue import (
    INDEX,
    Released,
    check_bytes,
    choose_folder,
    find_released,
    read_index,
)
from finetune.released.hub import explain_hub_error, import_hub, read_repo
from finetune.verb_config import WeightsConfig, WeightsPushConfig, WeightsShowConfig

LIBRARY = "counterpose"
LICENCE, OTHER_LICENCE = "apache-2.0", "other"
NOT_FREE = ("-NC", "research", "unknown")  # in the licences of a card's data


def list_weights(argv: Sequence[str]) -> int:
    """Run ``weights list``: a line for each; returns the exit code."""
    config, _ = parse_keys(WeightsConfig, argv, "finetune weights list", least=0)
    folder = choose_folder(config.folder)
    known = read_index(folder)
    if not known:
        print(f"no weights are in {folder}: python -m finetune release writes some")
    for entry in known.values():
        size = f"{entry.bytes / 1e6:.1f} MB"
        print(f"{entry.name:<16} {entry.kind:<5} {size:>9}  {folder / entry.file}")
    return 0


def show_weights(argv: Sequence[str]) -> int:
    """Run ``weights show NAME``: its card; returns the exit code."""
    config, _ = parse_keys(WeightsShowConfig, argv, "finetune weights show")
    folder = choose_folder(config.folder)
    print(_read_card(folder, find_released(config.name, folder)), end="")
    return 0


def check_weights(argv: Sequence[str]) -> int:
    """Run ``weights check``: whether each file is the one that was released; the exit code.

    Raises:
        UserError: one is not; all are told before.
    """
    config, _ = parse_keys(WeightsConfig, argv, "finetune weights check", least=0)
    folder = choose_folder(config.folder)
    known, faults = read_index(folder), []
    for entry in known.values():
        try:
            check_bytes(folder / entry.file, entry)
            _check_network(folder / entry.file, entry)
            _read_card(folder, entry)
        except Failure as error:
            faults.append(str(error))
            print(f"{entry.name}: {error}")
        else:
            print(f"{entry.name}: as it was released, SHA-256 {entry.sha256}")
    if faults:
        raise UserError(f"{len(faults)} of {len(known)} weights in {folder} are not as released")
    if not known:
        print(f"no weights are in {folder}")
    return 0


def push_weights(argv: Sequence[str]) -> int:
    """Run ``weights push NAME repo=OWNER/NAME``: file, card and page in one commit; the exit code.

    Raises:
        UserError: the file is not as released; huggingface_hub is missing or nobody is logged in.
        EnvironmentFault: the hub cannot be used.
    """
    config, _ = parse_keys(WeightsPushConfig, argv, "finetune weights push")
    folder = choose_folder(config.folder)
    entry = find_released(config.name, folder)
    check_bytes(folder / entry.file, entry)
    repo = read_repo(config.repo)
    page = write_page(_read_card(folder, entry), entry, repo)
    library = import_hub()
    try:
        done = _upload(library, repo, page, folder / entry.file, config)
    except Exception as error:
        raise explain_hub_error(error, f"repo={config.repo}") from None
    print(f"pushed {folder / entry.file} to {repo}: hf://{repo}@{done.oid}")
    return 0


def _upload(library: Any, repo: str, page: str, file: Path, config: WeightsPushConfig) -> Any:
    """huggingface_hub's CommitInfo."""
    api = library.HfApi()
    api.create_repo(repo, private=config.private, exist_ok=True)
    operations = [
        library.CommitOperationAdd("README.md", page.encode()),
        library.CommitOperationAdd(WEIGHTS, str(file)),
    ]
    return api.create_commit(repo, operations, commit_message=f"Weights '{config.name}'")


def write_page(card: str, entry: Released, repo: str) -> str:
    """Return a hub's page: the card below what the hub reads, with the repository in its commands.

    Args:
        card: of the weights.  repo: "owner/name".
    """
    data = card.partition("## Where it comes from")[2].partition("## Numbers")[0]
    licences = " ".join(re.findall(r"licence ([^,;\n]+)", data))
    has_own_body = BODY_TERMS in card
    bound = has_own_body or any(word in licences for word in NOT_FREE)
    tags = ["human-mesh-recovery", "human-pose-estimation", "3d", entry.kind]
    if not has_own_body:
        tags.append("anny")
    lines = [
        "---",
        f"license: {OTHER_LICENCE if bound else LICENCE}",
        *(["license_name: see-the-card"] if bound else []),
        f"library_name: {LIBRARY}",
        "pipeline_tag: image-to-3d",
        "tags:",
        *[f"- {tag}" for tag in tags],
        "---",
        "",
    ]
    place = f"hf://{repo}"
    card = card.replace(f'load("{entry.name}")', f'load("{place}")')
    card = card.replace(f"run={entry.name}`, where the weights ship; else name", f"run={place}`.")
    card = card.replace("the file, its URL or its hub repository in the place of the name.\n", "")
    return "\n".join(lines) + card.replace(f"`{entry.file}`", f"`{WEIGHTS}`")


def _check_network(path: Path, entry: Released) -> None:
    """Raise UserError where the file is no network, or one of another kind."""
    from finetune.released.network_file import open_network
    from finetune.temporal.module_file import open_module

    if entry.kind == "motion":
        open_module(path, "weights")
        return
    kind = open_network(path).body.kind
    if kind != entry.kind:
        raise UserError(f"{path} recovers a {kind}, {INDEX} says {entry.kind}")


def _read_card(folder: Path, entry: Released) -> str:
    path = folder / entry.card
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise failure_of(error, f"{path}, the card, cannot be read: {explain(error)}") from None
