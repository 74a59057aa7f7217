"""One run in one folder: a lease with a generation number and a heartbeat.

The holder touches ``lease.json`` every few seconds. Who finds a lease whose owner is dead (this machine) or silent for
EXPIRES_S (another one) takes it over under the next generation; each save of a checkpoint checks that its generation still
holds, so an owner that was only asleep cannot overwrite its successor's work.
"""

import contextlib
import fcntl
import json
import os
import socket
import threading
from pathlib import Path

from engine.errors import UserError

EXPIRES_S = 60
BEAT_S = 5


class Lease:
    """Held from construction until release().

    Raises:
        UserError: another live run holds the folder, or the folder cannot be written.
    """

    def __init__(self, folder):
        self.path = Path(folder) / "lease.json"
        try:
            with open(Path(folder) / "lease.lock", "a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self.generation = self._take()
        except OSError as error:
            raise UserError(f"run folder {folder} cannot be written: {error.strerror.lower()}") from None
        self._ended = threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()

    def check(self):
        """Raises UserError if a newer generation took the folder over."""
        held = self._read()
        if held is None or held["generation"] != self.generation:
            now = held["generation"] if held else "none"
            raise UserError(f"{self.path}: this run holds generation {self.generation}, the file says {now}: another run "
                            f"took the folder over; this one stops without saving")

    def release(self):
        """Let the next run start at once."""
        self._ended.set()
        with contextlib.suppress(OSError):
            held = self._read()
            if held and held["generation"] == self.generation:
                self._write({**held, "released": True})

    def _take(self):
        held = self._read()
        if held and not held["released"]:
            age = self._age()
            here = held["host"] == _host()
            alive = _started(held["pid"]) == held["started"] if here else age < EXPIRES_S
            if alive:
                owner = f"process {held['pid']} on {held['host'].split('/')[0]}"
                raise UserError(f"run folder {self.path.parent} is in use by {owner} (last sign of life {age:.0f} s ago); stop "
                                f"it or choose another run=")
        generation = held["generation"] + 1 if held else 1
        self._write({"generation": generation, "host": _host(), "pid": os.getpid(), "started": _started(os.getpid()),
                     "released": False})
        return generation

    def _read(self):
        try:
            return json.loads(self.path.read_text())
        except FileNotFoundError:
            return None
        except ValueError:
            raise UserError(f"{self.path} is not readable as a lease; remove it if no run uses this folder") from None

    def _write(self, held):
        temporary = self.path.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(held))
        os.replace(temporary, self.path)

    def _age(self):
        """Seconds since the last heartbeat by the file system's own clock, which all machines share."""
        probe = self.path.with_suffix(f".probe-{os.getpid()}")
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
        return now - self.path.stat().st_mtime

    def _beat(self):
        while not self._ended.wait(BEAT_S):
            # A folder that is away for a moment only ages the lease; check() decides before each save.
            with contextlib.suppress(OSError, UserError):
                held = self._read()
                if held is None or held["generation"] != self.generation:
                    return  # a successor's lease is not ours to keep fresh
                os.utime(self.path)


def _host():
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{socket.gethostname()}/{boot.read_text().strip() if boot.exists() else ''}"


def _started(pid):
    """A process's start time in clock ticks, so that a reused number is not taken for the old owner; None if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])
