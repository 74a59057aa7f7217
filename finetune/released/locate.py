"""Where the network is that ``run=`` names: a run, a file, weights that ship, a URL, a hub.

    runs/body, runs/body/checkpoints/step-00001000   a run of one's own; it wins over a name
    body                                             weights that ship with this software
    mine/body.safetensors, a folder with one         a file of ``python -m finetune release``
    https://host/body.safetensors#sha256=HEX         kept in a cache, its hash checked
    hf://owner/repo@revision                         by huggingface_hub; so is hub:owner/repo

Nothing here imports torch.
"""

import os
from pathlib import Path

from engine.errors import UserError
from engine.run.run_folder import RunFolder, find_weights_file, step_of
from finetune.released import download, hub
from finetune.released.catalogue import SUFFIX, find_released, released_path


def locate_network(spec: str | os.PathLike[str], name: str = "run") -> Path:
    """Return the folder of a run or checkpoint, or the file of weights, that a text means.

    Args:
        name: of the key that gave it, for messages.
    Raises:
        UserError: it is none of these, or its bytes are not those that it names.
        EnvironmentFault: no network, or no room.
    """
    text = os.fspath(spec)
    if download.is_url(text):
        return download.fetch_weights(text, name)
    if hub.is_hub(text):
        return hub.fetch_weights(text, name)
    path = Path(text)
    if path.is_dir():
        return _look_inside(path, text, name)
    if path.suffix == SUFFIX:
        if not path.is_file():
            raise UserError(f"{name}={text}: there is no such file")
        return path
    if path.is_file():
        raise UserError(
            f"{name}={text} is a file, and none of weights for meshes: these end in {SUFFIX}"
        )
    if is_plain_name(text) and not path.exists():
        return _find_shipped(text, name)
    return path


def _look_inside(path: Path, text: str, name: str) -> Path:
    """A run's or checkpoint's folder itself; of another the one file of weights in it."""
    is_run = RunFolder(path).config.is_file() or RunFolder(path).checkpoints.is_dir()
    if is_run or step_of(path.resolve().name) is not None:
        return path
    files = sorted(path.glob(f"*{SUFFIX}"))
    if len(files) == 1 and not _is_checkpoint(path):
        return files[0]
    if is_plain_name(text) and not files and _ships(text):
        return released_path(text)
    if len(files) > 1 and not find_weights_file(path).is_file():
        names = ", ".join(file.name for file in files)
        raise UserError(f"{name}={text} holds several files of weights: name one of {names}")
    return path


def _is_checkpoint(path: Path) -> bool:
    return (path / "state.json").is_file()


def is_plain_name(text: str) -> bool:
    """Return whether a text may be the name of weights that ship: it is no path and no URL."""
    return bool(text) and not set(text) & {"/", os.sep, ":"} and text not in (".", "..")


def _ships(text: str) -> bool:
    try:
        find_released(text)
    except UserError:
        return False
    return True


def _find_shipped(text: str, name: str) -> Path:
    try:
        found = find_released(text)
    except UserError as error:
        raise UserError(f"{name}={text}: there is no such folder, and {error}") from None
    return released_path(found.name)


def results_home(spec: str | os.PathLike[str]) -> Path:
    """Return the folder beside which results about a network go where no other is named.

    A run's own folder; of anything else a folder of its name where the command is typed.
    """
    text = os.fspath(spec)
    path = Path(text)
    if path.is_dir() and path.suffix != SUFFIX:
        return path
    if download.is_url(text) or hub.is_hub(text):
        text = text.partition("#")[0].partition("?")[0].partition("@")[0]
        return Path(Path(text).stem or "weights")
    return Path(path.stem)
