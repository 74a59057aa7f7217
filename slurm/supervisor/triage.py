"""Seconds of each node's GPUs, disks and network before ranks start.

So a broken node is left out and not found by hours.

    node 0 (slurm.supervisor.coordinator)  opens a Sink and sends an order to every node
    every node                             has a Check run this module, and sends its report
    node 0                                 judges by find_failing(reports)

The checks run in a process of their own, which can be ended where a driver or a file system hangs,
and which alone imports torch, only where GPUs are asked for.
"""

import contextlib
import json
import os
import selectors
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, TypedDict

from engine.errors import UserError, explain, failure_of
from engine.logging.console import get_logger

log = get_logger(__name__)

LIMIT_S = 180  # for a node's answer: to import torch from cold storage takes a minute
DISK_BYTES = 16 << 20
DISK_S = 30  # for those to be written, read and compared
SENT_BYTES = 4 << 20  # from each node to node 0
# A network is slow below both: in itself, and beside the median of the job's nodes.
SLOW_MB_S, SLOW_SHARE = 10, 0.05
FREE_SHARE = 0.8  # of a GPU's memory; what else is in use is another process's
SLOW_GPU = 3  # times the median of the node's GPUs
SIDE, PRODUCTS = 4096, 20  # of the matrices that each GPU multiplies, and how often


class Report(TypedDict):
    """What a node says of itself.

    Attributes:
        faults: the node's own.
        figures: such as {"network_mb_s": 800.0}.
        user: what is wrong on any node until a person mends it.
    """

    faults: list[str]
    figures: dict[str, float]
    user: list[str]


class Sink:
    """A port on node 0 that takes SENT_BYTES from each node that knows the token, until ``close``.

    Attributes:
        place: [address, port]; None where node 0's address, as the others know it, is none of its
            own.
    """

    def __init__(self, address: str, token: str) -> None:
        self.token, self.open = token.encode(), True
        self.place: list[str | int] | None = None
        try:
            self.listener = socket.create_server((address, 0), backlog=1024)
        except OSError as error:
            words = explain(error)
            log.info("note: the nodes' network is not checked: %s: %s", address, words)
            return
        self.place = [address, self.listener.getsockname()[1]]
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.listener, selectors.EVENT_READ)
        threading.Thread(target=self._work, name="triage", daemon=True).start()

    def close(self) -> None:
        """Have the thread end, within a fraction of a second."""
        self.open = False

    def _work(self) -> None:
        took: dict[int, int] = {}  # {descriptor of a connection: bytes so far}
        connections: dict[int, socket.socket] = {}
        while self.open:
            for ready, _ in self.selector.select(0.2):
                if ready.fileobj is self.listener:
                    with contextlib.suppress(OSError):
                        connection = self.listener.accept()[0]
                        connection.setblocking(False)
                        took[connection.fileno()] = 0
                        connections[connection.fileno()] = connection
                        self.selector.register(connection, selectors.EVENT_READ)
                    continue
                connection = connections[ready.fd]
                got = self._take(connection, took[ready.fd])
                took[ready.fd] += got
                if not got:
                    self.selector.unregister(connection)
                    connections.pop(ready.fd).close()
        for connection in (*connections.values(), self.listener):
            connection.close()
        self.selector.close()

    def _take(self, connection: socket.socket, before: int) -> int:
        """Return the bytes taken in; 0 of one that is over, is a stranger, or has sent all.

        One that has sent all is answered.
        """
        try:
            data = connection.recv(1 << 20)
            if not data or (before == 0 and not data.startswith(self.token)):
                return 0
            if before + len(data) >= SENT_BYTES:
                connection.send(b"k")
                return 0
        except OSError:
            return 0
        return len(data)


class Check:
    """The checks of this node under way, in a process of their own.

    Args:
        words: of the command.
        order: for ``main``.
        log: file for what it says beside its report.
    """

    def __init__(self, words: list[str], order: dict[str, Any], log: Path) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.failed = ""  # why they could not be started
        try:
            with open(log, "ab") as errors:
                self.process = subprocess.Popen(
                    words,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    start_new_session=True,
                )
            if self.process.stdin:
                self.process.stdin.write(json.dumps(order).encode())
                self.process.stdin.close()
        except OSError as error:
            self.failed = f"the check cannot be started: {explain(error)}"

    def report(self) -> Report | None:
        """Return the report once the checks are over, else None."""
        if self.process is None or self.failed:
            return {"faults": [self.failed], "figures": {}, "user": []}
        code = self.process.poll()
        if code is None:
            return None
        said = self.process.stdout.read() if self.process.stdout else b""
        lines = said.decode("utf-8", "replace").splitlines()
        if code or not lines:
            return {"faults": [f"the check ended with exit code {code}"], "figures": {}, "user": []}
        return json.loads(lines[-1])

    def end(self) -> None:
        """End it without a wait.

        One that hangs in a driver or a file system ends when that lets it.
        """
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)


def find_failing(reports: dict[str, Report | None]) -> dict[str, str]:
    """Return {node: what is wrong with it}.

    Args:
        reports: {node: its report, or None where it gave none within LIMIT_S}.
    """
    out = {}
    speeds = {
        node: report["figures"]["network_mb_s"]
        for node, report in reports.items()
        if report and "network_mb_s" in report["figures"]
    }
    usual = statistics.median(speeds.values()) if speeds else 0
    for node, report in reports.items():
        faults = [f"no answer within {LIMIT_S} s"] if report is None else list(report["faults"])
        speed = speeds.get(node)
        if speed is not None and speed < SLOW_MB_S and speed < SLOW_SHARE * usual:
            faults.append(
                f"sends {speed:.1f} MB/s to node 0, the job's nodes {usual:.0f} MB/s in the median"
            )
        if faults:
            out[node] = "; ".join(faults)
    return out


def main(order: dict[str, Any]) -> Report:
    """Do all checks on this node; return its report.

    Args:
        order: {"gpus": how many, "disks": [folder, ...], "sink": [address, port] or None, "token":
            text}.
    """
    user = check_rights(order["disks"])
    faults, figures = check_disks(order["disks"]), {}
    if order["sink"]:
        network_faults, figures = check_network(order["sink"], order["token"])
        faults += network_faults
    if order["gpus"]:
        faults += check_gpus(order["gpus"])
    return {"faults": faults, "figures": figures, "user": user}


def check_rights(folders: list[str]) -> list[str]:
    """Return what a person must mend: folders that may not be made or written, on any node."""
    faults = []
    for folder in folders:
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            failure = failure_of(error, f"{folder} cannot be used: {explain(error)}")
            if isinstance(failure, UserError):
                faults.append(str(failure))
            continue
        if not os.access(folder, os.W_OK):
            faults.append(f"{folder} may not be written")
    return faults


def check_disks(folders: list[str]) -> list[str]:
    """Return faults of folders: what is written must be read again as it was, in time."""
    faults = []
    for folder in folders:
        began, written = time.monotonic(), os.urandom(DISK_BYTES)
        try:
            os.makedirs(folder, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(written)
                file.flush()
                os.fsync(file.fileno())
                file.seek(0)
                same = file.read() == written
        except OSError as error:
            faults.append(f"{folder} cannot be used: {explain(error)}")
            continue
        seconds = time.monotonic() - began
        if not same:
            faults.append(f"{folder} gives other bytes than were written to it")
        elif seconds > DISK_S:
            faults.append(f"{folder} takes {seconds:.0f} s for {DISK_BYTES >> 20} MiB")
    return faults


def check_network(sink: list, token: str) -> tuple[list[str], dict[str, float]]:
    """Return (faults, {"network_mb_s"}) of sending SENT_BYTES to node 0."""
    data = token.encode().ljust(SENT_BYTES, b"\0")
    try:
        with socket.create_connection(tuple(sink), timeout=10) as line:
            line.settimeout(DISK_S)
            began = time.monotonic()
            line.sendall(data)
            answer = line.recv(1)
            seconds = time.monotonic() - began
    except OSError as error:
        return [f"cannot send to {sink[0]} port {sink[1]} of node 0: {explain(error)}"], {}
    if answer != b"k":
        return [f"node 0 at {sink[0]} port {sink[1]} closed the line"], {}
    return [], {"network_mb_s": SENT_BYTES / 1e6 / max(seconds, 1e-6)}


def check_gpus(count: int) -> list[str]:
    """Return faults of the first ``count`` GPUs.

    They must be there, with free memory, right in a product, and as fast as their neighbours.
    """
    import torch

    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if found < count:
        return [f"torch finds {found} GPUs, slurm.gpus_per_node={count}", *find_ecc_faults()]
    faults, seconds = find_ecc_faults(), {}
    for index in range(count):
        try:
            free, total = torch.cuda.mem_get_info(index)
            if free < FREE_SHARE * total:
                faults.append(
                    f"GPU {index} has {free / 2**30:.0f} of {total / 2**30:.0f} GiB free: another "
                    f"process holds it"
                )
                continue
            seconds[index], right = time_products(index)
        except RuntimeError as error:  # torch raises it for whatever CUDA says
            faults.append(f"GPU {index}: {' '.join(str(error).split())[:200]}")
            continue
        if not right:
            faults.append(f"GPU {index} multiplies matrices wrongly")
    return faults + find_slow_gpus(seconds)


def find_slow_gpus(seconds: dict[int, float]) -> list[str]:
    """Return faults of {GPU: seconds for the same work}."""
    usual = statistics.median_low(seconds.values()) if seconds else 0
    return [
        f"GPU {index} takes {took * 1e3:.0f} ms for what takes its neighbours {usual * 1e3:.0f} ms"
        for index, took in seconds.items()
        if took > SLOW_GPU * usual
    ]


def time_products(index: int) -> tuple[float, bool]:
    """Return (seconds, whether the result is right) of PRODUCTS matrix products on a GPU.

    The matrices are SIDE x SIDE ones in bf16.
    """
    import torch

    ones = torch.ones(SIDE, SIDE, dtype=torch.bfloat16, device=torch.device("cuda", index))
    product = ones @ ones  # the first one loads the library
    torch.cuda.synchronize(index)
    began = time.monotonic()
    for _ in range(PRODUCTS):
        product = ones @ ones
    torch.cuda.synchronize(index)
    return time.monotonic() - began, bool((product == SIDE).all())


def find_ecc_faults() -> list[str]:
    """Return faults of this job's GPUs whose memory had errors that could not be corrected.

    By nvidia-smi; none where it is absent.
    """
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [
        tool,
        "--query-gpu=index,ecc.errors.uncorrected.volatile.total",
        "--format=csv,noheader",
    ]
    done = subprocess.run(query, capture_output=True, text=True)
    if done.returncode:
        return [
            f"nvidia-smi: {(done.stdout + done.stderr).strip() or f'exit code {done.returncode}'}"
        ]
    ours, faults = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(","), []
    for line in done.stdout.splitlines():
        index, errors = (word.strip() for word in line.split(","))
        if errors.isdigit() and int(errors) and (index in ours or not ours[0].isdigit()):
            faults.append(f"GPU {index} had {errors} memory errors that ECC could not correct")
    return faults


if __name__ == "__main__":
    print(json.dumps(main(json.load(sys.stdin))))
