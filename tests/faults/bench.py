"""Carries a case out: begins a folder, disturbs its starts, starts it without faults, checks."""

import functools
import http.server
import json
import shutil
import tempfile
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path

from . import check
from .plan import read_log, sites
from .server import Server, build_library
from .workloads import WORKLOADS, copy_shards, make_shards, words_of

ROOTS = ("run", "shards", "store", "cache")


@dataclass
class Outcome:
    """What became of a case.

    Attributes:
        case: its text.  codes: exit codes of its disturbed starts and of the one without faults.
        struck: [[operation, error, phase], ...] of all starts, each once.
        violations: of the invariant, with the start's number.
        said: what the starts said, where the invariant was broken.
    """

    case: str
    codes: list = field(default_factory=list)
    struck: list = field(default_factory=list)
    violations: list = field(default_factory=list)
    said: str = ""

    def line(self):
        return json.dumps(asdict(self))


class Bench:
    """A server, undisturbed runs to compare with, folders to begin with; a context manager.

    Raises:
        RuntimeError: the library cannot be built here.
    """

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="faults-"))
        try:
            self.server = Server(build_library(self.folder))
        except RuntimeError:
            shutil.rmtree(self.folder)
            raise
        self.references, self.begun, self.listed, self.made = {}, {}, {}, None
        self.web = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.close()
        if self.web:
            self.web.shutdown()
        shutil.rmtree(self.folder)

    def run_case(self, case):
        """The Outcome of a plan.Case."""
        places = self.begin(case.workload)
        outcome, spoken, log_hit = Outcome(str(case)), [], False
        reference = self.reference(case.workload)
        for number, faults in enumerate([*case.starts, ()], 1):
            before = check.look(places["run"])
            code, said, calls = self.start(case.workload, places, faults, number)
            after = check.look(places["run"])
            met = {
                (call.name, check.name_of(call, code == -9), call.phase)
                for call in calls
                if call.struck
            }
            log_hit |= any(call.struck and "run/log" in call.path for call in calls)
            made = [
                int(call.path[-22:-14])
                for call in calls
                if call.name == "rename"
                and not call.error
                and not call.struck
                and call.path.endswith("/complete.json")
            ]
            errors = {error for _, error, _ in met}
            spoken.append(f"--- start {number}, exit code {code}\n{said}")
            astray = check.went_astray(WORKLOADS[case.workload].faults, "".join(spoken))
            found = check.lost_checkpoints(before, after, made, None if astray else reference)
            found += check.lost_lines(before, after, "KILL" in errors or log_hit)
            if faults:
                found += check.bad_end(code, said, errors, after, astray)
            elif not astray:
                found += check.bad_outcome(code, said, after, reference, log_hit)
            outcome.violations += [f"start {number}: {text}" for text in found]
            outcome.struck += [list(one) for one in sorted(met) if list(one) not in outcome.struck]
            outcome.codes.append(code)
        if outcome.violations:
            outcome.said = "".join(spoken)[-20000:]
        shutil.rmtree(places["run"].parent)
        return outcome

    def reference(self, name):
        """check.Found of an undisturbed run that keeps all its checkpoints."""
        workload = WORKLOADS[name]
        # What it begins with makes no difference to what comes out. That shards come through a
        # cache
        # does: nobody lists whose images they hold, and weights say so.
        key = workload.kind, json.dumps(workload.faults), "data.shards={shards}" in workload.words
        if key not in self.references:
            places = self._places(workload)
            code, said, _ = self.start(name, places, (), 0, ["checkpoint.keep=1000"])
            if code:
                raise RuntimeError(f"the undisturbed run left with {code}: {said}")
            self.references[key] = check.look(places["run"])
            shutil.rmtree(places["run"].parent)
        return self.references[key]

    def sites(self, name):
        """plan.sites of a start of a workload without faults."""
        if name not in self.listed:
            places = self.begin(name)
            code, said, calls = self.start(name, places, (), 0)
            if code:
                raise RuntimeError(f"{name} without faults left with {code}: {said}")
            self.listed[name] = sites(calls)
            shutil.rmtree(places["run"].parent)
        return self.listed[name]

    def begin(self, name):
        """The places of a case, with the folder that the workload begins with."""
        workload = WORKLOADS[name]
        if name not in self.begun:
            places = self._places(workload)
            for faults in workload.begun:
                # In the foreground a checkpoint is written when a kill comes, or it is not.
                code, said, _ = self.start(name, places, faults, 0, ["checkpoint.background=false"])
                if code != (-9 if faults else 0):
                    raise RuntimeError(f"the beginning of {name} left with {code}: {said}")
            if workload.change:
                workload.change(places["run"])
            self.begun[name] = places["run"].parent
        places = self._places(workload, empty=True)
        shutil.copytree(self.begun[name], places["run"].parent, dirs_exist_ok=True)
        return places

    def _places(self, workload, empty=False):
        """{"run": folder, ...} of a new case."""
        parent = Path(tempfile.mkdtemp(prefix="case-", dir=self.folder))
        places = {name: parent / name for name in ROOTS}
        if workload.kind == "pretrain":
            if not self.made:
                self.made = self.folder / "shards"
                make_shards(self.made)
            if not empty:
                copy_shards(self.made, places)
        return places

    def start(self, name, places, faults, number, more=()):
        """(exit code, output, [plan.Call, ...]) of one start; faults of plan.Fault."""
        workload, parent = WORKLOADS[name], places["run"].parent
        roots = {root: places[root] for root in ROOTS}
        rules, log, said = (parent / f"{kind}-{number}" for kind in ("rules", "calls", "said"))
        rules.write_text(
            "".join(f"root\t{folder}\n" for folder in roots.values())
            + "".join(fault.rule(roots) + "\n" for fault in faults)
        )
        for old in (log, said):
            old.unlink(missing_ok=True)
        words = [
            *words_of(
                workload, {**places, "url": self._url(places["store"]) if name == "http" else ""}
            ),
            *more,
        ]
        code = self.server.run(
            {
                "kind": workload.kind,
                "faults": workload.faults,
                "words": words,
                "rules": str(rules),
                "log": str(log),
                "said": str(said),
            }
        )
        return code, said.read_text(errors="replace"), read_log(log, roots)

    def _url(self, folder):
        """A web server of this machine for a folder."""
        if not self.web:
            handler = functools.partial(Quiet, directory=str(self.folder))
            self.web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
            threading.Thread(target=self.web.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.web.server_address[1]}/{folder.relative_to(self.folder)}"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        """Nothing."""
