"""A run's folder is its identity: who holds it, with which config, and where it resumes."""

import contextlib
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from engine import version
from engine.checkpoint import checkpoints
from engine.config.parser import flat, parse, resumable_keys, save
from engine.errors import UserError, explain, failure_of
from engine.run.files import replace_file, write_file
from engine.run.patience import exists, list_names
from engine.run.run_folder import BEFORE_CONFIG, OF_SLURM, RunFolder
from engine.run.run_lock import Lease


class Run:
    """The opened folder of a run. Resume is the normal start: there is no flag for it.

    Args:
        folder: made if it is missing.  config: the resolved dataclass.  command: such as
            "pretrain train".
        device: "cuda" or "cpu", noted for later starts.
    Attributes:
        folder, lease; paths: of what is in the folder.  newest: the checkpoint to resume from, or
            None.
    Raises:
        UserError: the folder cannot be made, it belongs to another command, a key that is not
            resumable has another value than when the run began, or steps were done and no
            checkpoint is there to resume from.
        EnvironmentFault: another run holds the folder; the disk is full; something in it cannot be
            read for now.
    """

    def __init__(
        self,
        folder: str | Path,
        config: Any,
        command: str,
        device: str | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.paths = RunFolder(folder)
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
            self.paths.clear_leftovers()
            self._settle(config, command, device)
            self.newest = checkpoints.find_start(self.folder, self.check)
        except BaseException:
            self.lease.release()
            raise

    def _refuse_strangers(self) -> None:
        names = list_names(self.folder)
        others = [name for name in names if not name.startswith(BEFORE_CONFIG + OF_SLURM)]
        if others and self.paths.config.name not in names:
            raise UserError(
                f"run={self.folder} is not a run's folder but holds {others[0]}; choose an empty "
                f"or a new folder"
            )

    def _settle(self, config: Any, command: str, device: str | None) -> None:
        path = self.paths.config
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
        try:
            write_file(self.paths.environment, json.dumps(_environment(device), indent=1))
            with replace_file(path) as temporary:
                save(config, temporary, command)
        except OSError as error:
            raise failure_of(error, f"run={self.folder}: {explain(error)}") from None

    def check(self) -> None:
        """Raise UserError if another run took the folder over.

        A folder that is away for a moment is no answer: then nothing is raised.
        """
        with contextlib.suppress(OSError):
            self.lease.check()

    def close(self) -> None:
        """Let the next run start at once."""
        self.lease.release()


def _shown(value: Any) -> str:
    return json.dumps(dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value)


def _environment(device: str | None) -> dict[str, Any]:
    return {
        "command": sys.argv,
        "versions": version.library_versions(),
        "git": version.describe_commit(),
        "device": device,
    }
