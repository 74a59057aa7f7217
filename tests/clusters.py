"""What tests need of SLURM: a cluster of this machine alone, runs on it, and how to do them
harm."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs import ROOT

SCRIPT = ROOT / "tests" / "slurm_cluster.sh"
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"


def need_slurm():
    """Skip where it is not installed."""
    missing = [
        name
        for name in ("sbatch", "slurmctld", "slurmd", "munged")
        if not shutil.which(name, path=PATH)
    ]
    if missing:
        pytest.skip(
            f"{', '.join(missing)}: not installed (Debian: apt-get install slurm-wlm munge)"
        )


class Cluster:
    """A cluster in a folder, started unless this process runs inside of it; ``env`` for commands
    that talk to it."""

    def __init__(self, folder, inside=False, **knobs):
        self.folder = Path(folder)
        if not inside:
            started = subprocess.run(
                [SCRIPT, "start", folder],
                env={**os.environ, **knobs},
                capture_output=True,
                text=True,
            )
            assert started.returncode == 0, started.stderr
        # One thread a process, so that sums are taken in one order; see decision 8.
        self.env = {**os.environ, "SLURM_CONF": f"{folder}/slurm.conf", "OMP_NUM_THREADS": "1"}

    def stop(self):
        subprocess.run([SCRIPT, "stop", self.folder], check=True)

    def ask(self, *command):
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def slurm(self, *words, code=0, cwd=ROOT):
        """``python -m slurm`` to its end; what it said."""
        done = subprocess.run(
            [sys.executable, "-m", "slurm", *map(str, words)],
            env=self.env,
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        assert done.returncode == code, done.stdout
        return done.stdout

    def daemon(self, name):
        """The process number of slurmctld, or of slurmd.NODE."""
        return int((self.folder / "pids" / f"{name}.pid").read_text())

    def job(self, run):
        """scontrol's fields of the job in a run's folder."""
        number = json.loads((Path(run) / "slurm" / "submitted.json").read_text())["job"]
        line = self.ask("scontrol", "show", "job", "-o", number).splitlines()[0]
        return dict(part.split("=", 1) for part in line.split(" ") if "=" in part)

    def wait_for(self, run, condition, seconds=120):
        """Wait until condition() is true; fails with all that the job said."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, told(run)
            time.sleep(0.05)

    def reach(self, run, step):
        self.wait_for(run, lambda: step in steps(run))

    def finish(self, run, seconds=180):
        """Wait for the end of a run's work, then for its job to be over."""
        self.wait_for(run, lambda: history(run)[-1]["event"] in ("done", "stop"), seconds)
        self.wait_for(run, lambda: self.job(run)["JobState"] in ("COMPLETED", "FAILED"), 60)

    def harmed(self, run, step, harm, seconds=180):
        """Do harm at a step and wait for the end; returns (seconds until training again, steps
        lost)."""
        self.reach(run, step)
        starts, seen = events(run).count("start"), max(steps(run))
        at = time.time()
        harm()
        deadline = time.monotonic() + seconds
        while events(run).count("start") == starts:
            assert time.monotonic() < deadline, told(run)
            if events(run).count("start") == starts:
                seen = max([seen, *steps(run)])
            time.sleep(0.05)
        self.finish(run, seconds)
        began = [line["time"] for line in history(run) if line["event"] == "start"][starts]
        first = next(line for line in log(run) if line["time"] > began)
        return first["time"] - at, max(0, seen - (first["step"] - 1))


def send_ranks(cluster, base, program, count=1, triage="", **settings):
    """Submit jobs whose only rank is ``program``, Python text, in place of a run: [folder, ...];
    several are an array.

    The program gets its folder as its only argument. ``triage``: Python text at the end of each
    node's checks.
    """
    code = base / "code" / "0001"
    for name in ("engine", "slurm"):
        shutil.copytree(ROOT / name, code / name, ignore=shutil.ignore_patterns("__pycache__"))
    (code / "program.py").write_text(program)
    checks, mark = (
        (code / "slurm" / "supervisor" / "triage.py").read_text(),
        '\n\nif __name__ == "__main__":',
    )
    assert checks.count(mark) == 1
    (code / "slurm" / "supervisor" / "triage.py").write_text(
        checks.replace(mark, f"\n{triage}{mark}")
    )
    folders = [base / f"part-{number}" for number in range(count)] if count > 1 else [base / "part"]
    words = "from clusters import hand_over; import json, sys; hand_over(*json.loads(sys.argv[1]))"
    told_to = json.dumps([str(base), [str(folder) for folder in folders], settings])
    done = subprocess.run(
        [sys.executable, "-c", words, told_to],
        cwd=ROOT,
        text=True,
        timeout=120,
        capture_output=True,
        env={**cluster.env, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
    )
    assert done.returncode == 0, done.stderr
    return folders


def hand_over(base, folders, settings):
    """In a process of its own, whose SLURM is the cluster."""
    from engine.config.parser import flat
    from slurm import job_record
    from slurm.config import SlurmConfig
    from slurm.submit import submit

    config = SlurmConfig(**{"cores_per_node": 1, "hours": 1, **settings})
    jobs = [
        job_record.Job(
            ["program"],
            [folder],
            folder,
            base,
            f"{base}/code/0001",
            sys.executable,
            True,
            config.nodes,
            1,
            flat(config),
            array=number if len(folders) > 1 else None,
        )
        for number, folder in enumerate(folders)
    ]
    for job in jobs:
        job.save()
    submit.submit_jobs(submit.make_executor(config, base, jobs[0]), jobs)


class Table:
    """The table of faults in docs/cluster.md, whose rows the tests measure; written where
    COUNTERPOSE_FAULTS is set."""

    PATH, MARKS = (
        ROOT / "docs" / "cluster.md",
        ("<!-- faults: written by the tests -->", "<!-- end of faults -->"),
    )

    def __init__(self):
        self.rows = {}

    def add(self, fault, measured, note):
        self.rows[fault] = f"| {fault} | {measured[0]:.0f} | {measured[1]} | {note} |"

    def write(self):
        if not os.environ.get("COUNTERPOSE_FAULTS") or not self.rows:
            return
        before, rest = self.PATH.read_text().split(self.MARKS[0])
        old, after = rest.split(self.MARKS[1])
        rows = {
            line.split(" | ")[0].removeprefix("| "): line
            for line in old.splitlines()[3:]
            if line.startswith("| ")
        }
        head = [
            "| fault | seconds until training again | steps lost | what happens |",
            "|---|---|---|---|",
        ]
        lines = [*head, *{**rows, **self.rows}.values()]
        self.PATH.write_text(
            before + self.MARKS[0] + "\n" + "\n".join(lines) + "\n" + self.MARKS[1] + after
        )


def history(run):
    path = Path(run) / "slurm" / "history.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def log(run):
    """The whole lines of a run's log."""
    path = Path(run) / "log.jsonl"
    return (
        [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
        if path.exists()
        else []
    )


def steps(run):
    return [line["step"] for line in log(run)]


def events(run):
    return [line["event"] for line in history(run)]


def told(run):
    """Everything that a run's job wrote."""
    parts = [json.dumps(line) for line in history(run)]
    for path in sorted((Path(run) / "slurm").glob("submitit/*log*")) + sorted(
        (Path(run) / "slurm").glob("ranks/*.log")
    ):
        parts += [f"--- {path.name}", path.read_text()[-3000:]]
    return "\n".join(parts)


def rank_process(run, number, seconds=30, word=None):
    """The process number of a rank that runs now, found by its environment. ``word``: of its
    command; default: the config."""
    deadline, mark = time.monotonic() + seconds, f"\0RANK={number}\0"
    word = word or f"{run}/slurm/config.yaml"
    while time.monotonic() < deadline:
        for place in Path("/proc").iterdir():
            try:
                if place.name.isdigit() and mark in f"\0{(place / 'environ').read_text()}":
                    words = (place / "cmdline").read_text().split("\0")
                    if {"pretrain", "finetune"} & set(words) and word in words:
                        return int(place.name)
            except (OSError, UnicodeDecodeError):
                continue
        time.sleep(0.05)
    raise AssertionError(f"no rank {number} of {run} runs\n{told(run)}")
