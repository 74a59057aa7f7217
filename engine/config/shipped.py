"""Where the configs of this project are.

They lie in ``configs/`` of a checkout, or in their copy in an installed package.
"""

import difflib
import os
from pathlib import Path

ENGINE = Path(__file__).resolve().parent.parent


def config_folder() -> Path:
    """Returns the folder with ``pretrain/``, ``finetune/``, ``data/`` and ``slurm/``."""
    checkout = ENGINE.parent / "configs"
    installed = ENGINE / "configs"  # setup.py puts a copy there
    return installed if installed.is_dir() else checkout


def find_config(path: str, command: str) -> str:
    """Returns the file that a config's name means.

    A file that exists is itself, from the folder where the command was typed. A bare name, such as
    body_vits, is looked for among the configs of the command's package; so is
    configs/PACKAGE/NAME.yaml where there is no such file. What is not found stays as it is.

    Args:
        command: such as "pretrain train".
    """
    if os.path.exists(path):
        return path
    folder = config_folder()
    if os.sep not in path:
        name = path if path.endswith(".yaml") else f"{path}.yaml"
        shipped = folder / command.split()[0] / name
    elif path.startswith(f"configs{os.sep}"):
        shipped = folder / path.removeprefix(f"configs{os.sep}")
    else:
        return path
    return str(shipped) if shipped.is_file() else path


def suggest_config(path: str, command: str) -> str:
    """Returns "; did you mean FILE?" of a config file that is not there, or "" where none is near.

    Looks beside it, and for a bare name among the configs of the command's package.
    """
    folders = [os.path.dirname(path) or "."]
    if os.sep not in path:
        folders.append(str(config_folder() / command.split()[0]))
    name = os.path.basename(path)
    name = name if name.endswith(".yaml") else f"{name}.yaml"
    for folder in folders:
        there = os.listdir(folder) if os.path.isdir(folder) else []
        configs = sorted(file for file in there if file.endswith(".yaml"))
        near = difflib.get_close_matches(name, configs, 1, 0.5)
        if near:
            return f"; did you mean {os.path.join(folder, near[0])}?"
    return ""
