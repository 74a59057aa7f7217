"""One run in one folder: a lease with a generation number and a heartbeat.

The holder touches ``lease.json`` every few seconds. Who finds a lease whose owner is dead (same
machine, same process numbers) or silent for EXPIRES_S (on another machine) takes it over under the
next generation; each save of a checkpoint and each line of the log checks that its lease still
holds, so an owner that was only asleep cannot overwrite its successor's work.
"""

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import TypedDict

from engine.errors import EnvironmentFault, Failure, UserError, explain, failure_of
from engine.logging.console import get_logger
from engine.run.files import replace_file, sync
from engine.run.locks import lock_file
from engine.run.run_folder import RunFolder

log = get_logger(__name__)

EXPIRES_S = 60
BEAT_S = 5
REREAD_S = 1.0  # where files cannot be locked: between writing the lease and looking whose it is


class Owner(TypedDict):
    """What lease.json says of who holds the folder."""

    generation: int
    token: str
    host: str
    pid: int
    started: int | None
    released: bool


class Overtaken(UserError):
    """Another run took over the folder of this one."""


class Lease:
    """Held from construction until release().

    An owner on another machine that was heard of less than EXPIRES_S ago may be dead all the same:
    its next heartbeat or the end of that time is waited for, so that a run whose node broke down
    can be started again at once.

    Where files cannot be locked (Lustre without flock) it is read again a moment after it was
    written: of two that take it in the same instant the later writer has it.

    Raises:
        EnvironmentFault: another live run holds the folder, which ends; or the folder cannot be
            written for now.
        UserError: the folder may not be written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = RunFolder(folder).lease
        # Beside the generation, because file locks do not hold on every shared file system: of two
        # that take the lease in the same instant, one finds the other's mark at its first check.
        self.token = secrets.token_hex(8)
        try:
            self.generation = self._take()
        except OSError as error:
            raise failure_of(
                error, f"run folder {folder} cannot be written: {explain(error)}"
            ) from None
        self._ended = threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()

    def check(self) -> None:
        """Compare the file with this lease.

        Raises:
            Overtaken: another run took the folder over.  OSError: the folder cannot be read now.
        """
        held = self._read()
        if not self._ours(held):
            now = held["generation"] if held else "none"
            raise Overtaken(
                f"{self.path}: this run holds generation {self.generation}, the file says {now}: "
                f"another run took the folder over; this one stops without saving"
            )

    def release(self) -> None:
        """Let the next run start at once."""
        self._ended.set()
        with contextlib.suppress(OSError, Failure), self._locked():
            held = self._read()
            if held is not None and self._ours(held):
                self._write({**held, "released": True})

    @contextlib.contextmanager
    def _locked(self) -> Generator[bool, None, None]:
        """Yield whether the file system could lock.

        Without a lock, only the token and the generation decide.
        """
        with open(self.path.with_suffix(".lock"), "a") as lock:
            yield lock_file(lock)

    def _ours(self, held: Owner | None) -> bool:
        if held is None:
            return False
        return (held["generation"], held["token"]) == (self.generation, self.token)

    def _take(self) -> int:
        """Write the lease once it is free; returns its generation."""
        first = None
        while True:
            with self._locked() as locked:
                held = self._read()
                sign, age = self._sign(held)
                if held is None or sign is None:
                    generation = held["generation"] + 1 if held else 1
                    self._write(
                        {
                            "generation": generation,
                            "token": self.token,
                            "host": _host(),
                            "pid": os.getpid(),
                            "started": _started(os.getpid()),
                            "released": False,
                        }
                    )
                    if not locked:
                        self._look_again(generation)
                    return generation
            owner = _name_owner(held)
            if sign == "runs here" or first not in (None, sign):
                raise EnvironmentFault(
                    f"run folder {self.path.parent} is in use by {owner} (last heartbeat "
                    f"{age:.0f} s ago); stop it or choose another run="
                )
            if first is None:
                log.info(
                    "note: run folder %s was in use by %s %.0f s ago; if that sends no "
                    "heartbeat, this run begins in %.0f s",
                    self.path.parent,
                    owner,
                    age,
                    EXPIRES_S - age,
                )
            first = sign
            time.sleep(min(1.0, EXPIRES_S / 10))

    def _look_again(self, generation: int) -> None:
        """Raise EnvironmentFault if another run wrote the lease in the same moment; without a lock.

        The later writer of two has it.
        """
        log.info("note: the file system of %s has no file locks; the lease does without", self.path)
        time.sleep(REREAD_S)
        held = self._read()
        if held is None or (held["generation"], held["token"]) != (generation, self.token):
            owner = _name_owner(held) if held else "nobody"
            raise EnvironmentFault(
                f"run folder {self.path.parent} was taken by {owner} in the same moment; stop it "
                f"or choose another run="
            )

    def _sign(self, held: Owner | None) -> tuple[object, float]:
        """Return the owner's last heartbeat and its age in s.

        (None, 0) of one that is dead or gave the folder back.
        """
        if held is None or held["released"]:
            return None, 0
        age, beat = self._age()
        if held["host"] == _host():
            return ("runs here", age) if _started(held["pid"]) == held["started"] else (None, 0)
        return ((held["token"], beat), age) if age < EXPIRES_S else (None, 0)

    def _read(self) -> Owner | None:
        """Return what the file says, None where there is none."""
        try:
            held = json.loads(self.path.read_text())
            return Owner(
                generation=held["generation"],
                token=held.get("token", ""),  # the first versions wrote none
                host=held["host"],
                pid=held["pid"],
                started=held["started"],
                released=held["released"],
            )
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(
                f"{self.path} is not readable as a lease; remove it if no run uses this folder"
            ) from None

    def _write(self, held: Owner) -> None:
        # Under the token: process numbers of several machines may be the same.
        with replace_file(self.path, mark=self.token) as temporary:
            temporary.write_text(json.dumps(held))
            sync(temporary)  # or a machine that loses power may leave an empty file

    def _age(self) -> tuple[float, float]:
        """Return the seconds since the last heartbeat, and its time.

        By the file system's own clock, which all machines share.
        """
        probe = self.path.with_suffix(f".probe-{self.token}")
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
        beat = self.path.stat().st_mtime
        return now - beat, beat

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            # A folder that is away for a moment only ages the lease; check() decides before each
            # save.
            with contextlib.suppress(OSError, Failure):
                if not self._ours(self._read()):
                    return  # a successor's lease is not ours to keep fresh
                os.utime(self.path)


def _name_owner(held: Owner) -> str:
    return f"process {held['pid']} on {held['host'].split('/')[0]}"


def _host() -> str:
    """Name this machine since it was booted, and whose process numbers count here.

    Two containers may share all but those.
    """
    boot = Path("/proc/sys/kernel/random/boot_id")
    numbers = os.readlink("/proc/self/ns/pid") if os.path.islink("/proc/self/ns/pid") else ""
    return f"{socket.gethostname()}/{boot.read_text().strip() if boot.exists() else ''}/{numbers}"


def _started(pid: int) -> int | None:
    """Return a process's start time in clock ticks, None if it is gone.

    By it a number that is used again is not taken for the old owner.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])
