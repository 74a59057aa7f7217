"""Seconds of each node's GPUs, disks and network before ranks start, so that a broken node is left
out and not found by hours.

    node 0 (slurm.supervisor.coordinator): Sink; order -> every node: Check -> python launch.py
    slurm.supervisor.triage -> report -> failing(reports)

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

from engine.errors import UserError, explain, failure_of

LIMIT_S = 180  # for a node's answer: to import torch from cold storage takes a minute
DISK_BYTES = 16 << 20
DISK_S = 30  # for those to be written, read and compared
SENT_BYTES = 4 << 20  # from each node to node 0
SLOW_MB_S, SLOW_SHARE = (
    10,
    0.05,
)  # a network is slow below both: in itself, and beside the median of the job's nodes
FREE_SHARE = 0.8  # of a GPU's memory; what else is in use is another process's
SLOW_GPU = 3  # times the median of the node's GPUs
SIDE, PRODUCTS = 4096, 20  # of the matrices that each GPU multiplies, and how often


class Sink:
    """A port on node 0 that swallows SENT_BYTES from each node that knows the token; a thread,
    until ``close``.

    ``place``: [address, port]; None where node 0's address, as the others know it, is none of its
    own.
    """

    def __init__(self, address, token):
        self.token, self.place, self.open = token.encode(), None, True
        try:
            self.listener = socket.create_server((address, 0), backlog=1024)
        except OSError as error:
            print(
                f"note: the nodes' network is not checked: {address}: {explain(error)}", flush=True
            )
            return
        self.place = [address, self.listener.getsockname()[1]]
        self.poll = selectors.DefaultSelector()
        self.poll.register(self.listener, selectors.EVENT_READ)
        threading.Thread(target=self._work, name="triage", daemon=True).start()

    def close(self):
        self.open = False

    def _work(self):
        took = {}  # connection: bytes so far
        while self.open:
            for ready, _ in self.poll.select(0.2):
                if ready.fileobj is self.listener:
                    with contextlib.suppress(OSError):
                        line = self.listener.accept()[0]
                        line.setblocking(False)
                        took[line] = 0
                        self.poll.register(line, selectors.EVENT_READ)
                    continue
                line = ready.fileobj
                got = self._take(line, took[line])
                if got:
                    took[line] += got
                else:
                    self.poll.unregister(line)
                    took.pop(line)
                    line.close()
        for line in (*took, self.listener):
            line.close()
        self.poll.close()

    def _take(self, line, before):
        """Bytes taken in; 0 once the line is over, of a stranger, or has sent all, which is
        answered."""
        try:
            data = line.recv(1 << 20)
            if not data or (before == 0 and not data.startswith(self.token)):
                return 0
            if before + len(data) >= SENT_BYTES:
                line.send(b"k")
                return 0
        except OSError:
            return 0
        return len(data)


class Check:
    """The checks of this node under way, in a process of their own.

    Args:
        words: of the command.  order: for ``main``.  log: file for what it says beside its report.
    """

    def __init__(self, words, order, log):
        self.process, self.failed = None, None
        try:
            with open(log, "ab") as errors:
                self.process = subprocess.Popen(
                    words,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    start_new_session=True,
                )
            self.process.stdin.write(json.dumps(order).encode())
            self.process.stdin.close()
        except OSError as error:
            self.failed = f"the check cannot be started: {explain(error)}"

    def report(self):
        """{"faults": [text, ...], "figures": {name: number}, "user": [text, ...]} once it is over,
        else None.

        Faults are the node's; ``user``: what is wrong on any node until a person mends it.
        """
        if self.failed:
            return {"faults": [self.failed], "figures": {}, "user": []}
        code = self.process.poll()
        if code is None:
            return None
        lines = self.process.stdout.read().decode("utf-8", "replace").splitlines()
        if code or not lines:
            return {"faults": [f"the check ended with exit code {code}"], "figures": {}, "user": []}
        return json.loads(lines[-1])

    def end(self):
        """End it without a wait: one that hangs in a driver or a file system ends when that lets
        it."""
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)


def failing(reports: dict) -> dict:
    """{node: what is wrong with it} of {node: its report, or None where it gave none within
    LIMIT_S}."""
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


def main(order: dict) -> dict:
    """Do all checks on this node; returns its report.

    Args:
        order: {"gpus": how many, "disks": [folder, ...], "sink": [address, port] or None, "token":
            text}.
    """
    report = {"faults": [], "figures": {}, "user": check_rights(order["disks"])}
    checks = [lambda: check_disks(order["disks"])]
    if order["sink"]:
        checks.append(lambda: check_network(order["sink"], order["token"]))
    if order["gpus"]:
        checks.append(lambda: check_gpus(order["gpus"]))
    for check in checks:
        faults, figures = check()
        report["faults"] += faults
        report["figures"] |= figures
    return report


def check_rights(folders):
    """What a person must mend: folders that may not be made or written, on whatever node."""
    faults = []
    for folder in folders:
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            failure = failure_of(error, f"{folder} cannot be used: {explain(error)}")
            faults += [str(failure)] * isinstance(failure, UserError)
            continue
        if not os.access(folder, os.W_OK):
            faults.append(f"{folder} may not be written")
    return faults


def check_disks(folders):
    """(faults, {}): what is written to each folder must be read again as it was, in time."""
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
    return faults, {}


def check_network(sink, token):
    """(faults, {"network_mb_s"}) of sending SENT_BYTES to node 0."""
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


def check_gpus(count):
    """(faults, {}) of the first ``count`` GPUs: there, with free memory, right in a product, as
    fast as their neighbours."""
    import torch

    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if found < count:
        return [f"torch finds {found} GPUs, slurm.gpus_per_node={count}", *ecc_faults()], {}
    faults, seconds = ecc_faults(), {}
    for index in range(count):
        try:
            free, total = torch.cuda.mem_get_info(index)
            if free < FREE_SHARE * total:
                faults.append(
                    f"GPU {index} has {free / 2**30:.0f} of {total / 2**30:.0f} GiB free: another "
                    f"process holds it"
                )
                continue
            seconds[index], right = multiply(index)
        except RuntimeError as error:  # torch raises it for whatever CUDA says
            faults.append(f"GPU {index}: {' '.join(str(error).split())[:200]}")
            continue
        if not right:
            faults.append(f"GPU {index} multiplies matrices wrongly")
    return faults + slow_gpus(seconds), {}


def slow_gpus(seconds: dict) -> list:
    """Faults of {GPU: seconds for the same work}."""
    usual = statistics.median_low(seconds.values()) if seconds else 0
    return [
        f"GPU {index} takes {took * 1e3:.0f} ms for what takes its neighbours {usual * 1e3:.0f} ms"
        for index, took in seconds.items()
        if took > SLOW_GPU * usual
    ]


def multiply(index):
    """(seconds, whether the result is right) of PRODUCTS products of SIDE x SIDE matrices of ones
    in bf16 on a GPU."""
    import torch

    ones = torch.ones(SIDE, SIDE, dtype=torch.bfloat16, device=torch.device("cuda", index))
    product = ones @ ones  # the first one loads the library
    torch.cuda.synchronize(index)
    began = time.monotonic()
    for _ in range(PRODUCTS):
        product = ones @ ones
    torch.cuda.synchronize(index)
    return time.monotonic() - began, bool((product == SIDE).all())


def ecc_faults() -> list:
    """Faults of this job's GPUs whose memory had errors that could not be corrected, by nvidia-smi;
    none where it is absent."""
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
