"""A run's folder is its identity: who holds it, with which config, and where it goes on."""

import contextlib
import dataclasses
import json
import os
import sys
from pathlib import Path

from engine import version
from engine.checkpoint import checkpoints
from engine.config.parser import flat, parse, resumable_keys, save
from engine.errors import UserError, explain, failure_of
from engine.run.patience import exists, list_names
from engine.run.run_lock import Lease


class Run:
    """The opened folder of a run. Resume is the normal start: there is no flag for it.

    Args:
        folder: made if it is missing.  config: the resolved dataclass.  command: such as
            "pretrain".
        device: "cuda" or "cpu", noted for later starts.
    Attributes:
        folder, lease; ``newest``: the checkpoint to go on from, or None.
    Raises:
        UserError: the folder cannot be made, it belongs to another command, a key that is not resumable
            has another value than when the run began, or steps were done and no checkpoint is there
            to resume from.
        EnvironmentFault: another run holds the folder; the disk is full; something in it cannot be
            read for now.
    """

    def __init__(self, folder, config, command, device=None):
        self.folder = Path(folder)
        if not folder:
            raise UserError("run is not set: run=DIR names the run's folder")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise failure_of(
                error, f"run={folder}: the folder cannot be made: {explain(error)}"
            ) from None
        self._refuse_strangers()
        self.lease = Lease(self.folder)
        try:
            self._settle(config, command, device)
            self.newest = checkpoints.find_start(self.folder, self.check)
        except BaseException:
            self.lease.release()
            raise

    def _refuse_strangers(self):
        # What a start that was killed before it had a config may have left is no stranger's.
        ours = (
            "lease.",
            "environment.json",
            "config.writing",
            "saved.",
            "code",
            "slurm",
        )  # the last two: python -m slurm
        names = list_names(self.folder)
        others = [name for name in names if not name.startswith(ours)]
        if others and "config.yaml" not in names:
            raise UserError(
                f"run={self.folder} is no run's folder but holds {others[0]}; choose an empty or a "
                f"new folder"
            )

    def _settle(self, config, command, device):
        path = self.folder / "config.yaml"
        if exists(path):
            began = flat(parse(type(config), [str(path)], command))
            free = resumable_keys(config)
            for name, value in flat(config).items():
                if name not in free and began.get(name) != value:
                    raise UserError(
                        f"{name}={_shown(value)}, but the run in {self.folder} began with {name}="
                        f"{_shown(began.get(name))}; give the old value or a new run=DIR"
                    )
            return
        temporary = path.with_suffix(".writing")
        try:
            (self.folder / "environment.json").write_text(
                json.dumps(_environment(device), indent=1)
            )
            save(config, temporary, command)
            os.replace(temporary, path)
        except OSError as error:
            raise failure_of(error, f"run={self.folder}: {explain(error)}") from None

    def check(self):
        """Raises UserError if another run took the folder over. One that is away for a moment is no
        answer: then go on."""
        with contextlib.suppress(OSError):
            self.lease.check()

    def close(self):
        self.lease.release()


def _shown(value):
    return json.dumps(dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value)


def _environment(device):
    return {
        "command": sys.argv,
        "versions": checkpoints.versions(),
        "git": version.describe_commit(),
        "device": device,
    }
