"""One run in one folder: a lease with a generation number and a heartbeat.

The holder touches ``lease.json`` every few seconds. Who finds a lease whose owner is dead (same
machine, same process numbers) or silent for EXPIRES_S (elsewhere) takes it over under the next
generation; each save of a checkpoint and each line of the log checks that its lease still holds, so
an owner that was only asleep cannot overwrite its successor's work.
"""

import contextlib
import json
import os
import secrets
import socket
import sys
import threading
import time
from pathlib import Path

from engine.errors import EnvironmentFault, Failure, UserError, explain, failure_of
from engine.run.locks import lock_file

EXPIRES_S = 60
BEAT_S = 5
REREAD_S = 1.0  # where files cannot be locked: between writing the lease and looking whose it is


class Overtaken(UserError):
    """This run has lost its folder to another one."""


class Lease:
    """Held from construction until release().

    An owner elsewhere that was heard of less than EXPIRES_S ago may be dead all the same: it is
    waited for its next sign of life or for the end of that time, so that a run whose node broke
    down can be started again at once.

    Where files cannot be locked (Lustre without flock) it is read again a moment after it was
    written: of two that take it in the same instant the later writer has it.

    Raises:
        EnvironmentFault: another live run holds the folder, which ends; or the folder cannot be
            written for now.
        UserError: the folder may not be written.
    """

    def __init__(self, folder):
        self.path = Path(folder) / "lease.json"
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

    def check(self):
        """Raises Overtaken if another run took the folder over, OSError if the folder cannot be
        read right now."""
        held = self._read()
        if not self._ours(held):
            now = held["generation"] if held else "none"
            raise Overtaken(
                f"{self.path}: this run holds generation {self.generation}, the file says {now}: "
                f"another run "
                f"took the folder over; this one stops without saving"
            )

    def release(self):
        """Let the next run start at once."""
        self._ended.set()
        with contextlib.suppress(OSError, Failure), self._locked():
            held = self._read()
            if self._ours(held):
                self._write({**held, "released": True})

    @contextlib.contextmanager
    def _locked(self):
        """Yields whether the file system could lock; without, only the token and the generation
        decide."""
        with open(self.path.with_suffix(".lock"), "a") as lock:
            yield lock_file(lock)

    def _ours(self, held):
        return held is not None and (held["generation"], held["token"]) == (
            self.generation,
            self.token,
        )

    def _take(self):
        """Write the lease once it is free; returns its generation."""
        first = None
        while True:
            with self._locked() as locked:
                held = self._read()
                sign, age = self._sign(held)
                if sign is None:
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
            owner = f"process {held['pid']} on {held['host'].split('/')[0]}"
            if sign == "runs here" or first not in (None, sign):
                raise EnvironmentFault(
                    f"run folder {self.path.parent} is in use by {owner} (last sign of life "
                    f"{age:.0f} s "
                    f"ago); stop it or choose another run="
                )
            if first is None:
                print(
                    f"note: run folder {self.path.parent} was in use by {owner} {age:.0f} s ago; "
                    f"if that gives no sign of "
                    f"life, this run begins in {EXPIRES_S - age:.0f} s",
                    file=sys.stderr,
                    flush=True,
                )
            first = sign
            time.sleep(min(1.0, EXPIRES_S / 10))

    def _look_again(self, generation):
        """Without a lock: raises EnvironmentFault if another run wrote the lease in the same
        moment."""
        print(
            f"note: the file system of {self.path} has no file locks; the lease does without",
            file=sys.stderr,
            flush=True,
        )
        time.sleep(REREAD_S)
        held = self._read()
        if held is None or (held["generation"], held["token"]) != (generation, self.token):
            owner = f"process {held['pid']} on {held['host'].split('/')[0]}" if held else "nobody"
            raise EnvironmentFault(
                f"run folder {self.path.parent} was taken by {owner} in the same moment; stop it "
                f"or choose "
                f"another run="
            )

    def _sign(self, held):
        """(the owner's last sign of life, its age in s); (None, 0) of one that is dead or gave the
        folder back."""
        if held is None or held["released"]:
            return None, 0
        age, beat = self._age()
        if held["host"] == _host():
            return ("runs here", age) if _started(held["pid"]) == held["started"] else (None, 0)
        return ((held["token"], beat), age) if age < EXPIRES_S else (None, 0)

    def _read(self):
        """The lease or None."""
        try:
            held = {
                "token": "",
                **json.loads(self.path.read_text()),
            }  # the first versions wrote none
            return {
                name: held[name]
                for name in ("generation", "token", "host", "pid", "started", "released")
            }
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f"{self.path} is not readable as a lease; remove it if no run uses this folder"
            ) from None

    def _write(self, held):
        temporary = self.path.with_suffix(f".{self.token}")
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(json.dumps(held))
            file.flush()
            os.fsync(file.fileno())  # or a machine that loses power may leave an empty file
        os.replace(temporary, self.path)

    def _age(self):
        """(seconds since the last heartbeat, its time) by the file system's own clock, which all
        machines share."""
        probe = self.path.with_suffix(f".probe-{self.token}")
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
        beat = self.path.stat().st_mtime
        return now - beat, beat

    def _beat(self):
        while not self._ended.wait(BEAT_S):
            # A folder that is away for a moment only ages the lease; check() decides before each
            # save.
            with contextlib.suppress(OSError, Failure):
                if not self._ours(self._read()):
                    return  # a successor's lease is not ours to keep fresh
                os.utime(self.path)


def _host():
    """This machine since it was booted, and whose process numbers count here: two containers may
    share all but those."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    numbers = os.readlink("/proc/self/ns/pid") if os.path.islink("/proc/self/ns/pid") else ""
    return f"{socket.gethostname()}/{boot.read_text().strip() if boot.exists() else ''}/{numbers}"


def _started(pid):
    """A process's start time in clock ticks, so that a reused number is not taken for the old
    owner; None if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])
