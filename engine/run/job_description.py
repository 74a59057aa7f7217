"""What a command says of itself to who sends it to a cluster.

Each package whose commands can go there has a module ``describe`` with a table of them:

    COMMANDS = {
        ("data", "make"): Command(CommandTraits("out", takes_part=True), describe_make),
        ...
    }

    if __name__ == "__main__":
        answer(COMMANDS)

``python -m slurm`` runs that module in a process of its own, ``python -m data.describe make``, with
command lines on its standard input as JSON, [[argument, ...], ...], and reads a Description from
its output. So who submits imports none of the packages, and a package says what it is without being
imported. Nothing here imports torch, and neither should a ``describe``: a person waits for it.
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from engine.checkpoint.history import list_complete
from engine.cli import run
from engine.config.parser import flat, parse_all, parse_keys
from engine.config.paths import expand_home
from engine.config.shipped import find_config
from engine.config.train_config import TrainConfig
from engine.errors import Failure, UserError
from engine.run.run_folder import RunFolder
from engine.training import eval_jobs

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config", bound="DataclassInstance")
Words = tuple[str, ...]
CHECKPOINTS = "checkpoints="


@dataclass(frozen=True)
class CommandTraits:
    """How a command is to be handled, whatever its arguments.

    Attributes:
        folder_key: the key that names its folder.
        trains: several processes that resume from checkpoints; others are one process.
        takes_part: it takes part=K/N, so that several jobs can share its work.
        takes_config: a config file is its first argument. Others read a run or a checkpoint, whose
            path is the one word without a key, and take checkpoints= here.
        results: of these others: what each of several checkpoints gets as out=, inside the run,
            with {step} for the checkpoint's name; "": its own default.
    """

    folder_key: str
    trains: bool = False
    takes_part: bool = False
    takes_config: bool = True
    results: str = ""


@dataclass
class JobDescription:
    """What is known of one job before it starts.

    Attributes:
        arguments: of the command.
        config: {dotted key: value}, resolved; None where it has faults.
        folder: where its results go; None where it has faults.
        element: of a job for one of several checkpoints its name, such as "step-00000100".
        faults: what is wrong, a sentence each.
        notes: what is worth a line before it starts.
        evaluation: of a training run whose checkpoints are evaluated {"every", "steps", "words"};
            {checkpoint} in the words stands for its path.
    """

    arguments: list[str]
    config: dict[str, Any] | None = None
    folder: str | None = None
    element: str = ""
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    evaluation: dict[str, Any] | None = None


@dataclass(frozen=True)
class Command:
    """A command that can go to a cluster, as its package has it.

    Attributes:
        describe: from its arguments to their JobDescription; a Failure becomes a fault of it.
    """

    traits: CommandTraits
    describe: Callable[[list[str]], JobDescription]


@dataclass
class Description:
    """What a package answers: of one command, and of the jobs that its command lines ask for."""

    traits: CommandTraits
    jobs: list[JobDescription]

    def to_json(self) -> str:
        """Return the text that ``from_json`` takes."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Description":
        """Return the Description of a text."""
        tree = json.loads(text)
        jobs = [JobDescription(**job) for job in tree["jobs"]]
        return cls(CommandTraits(**tree["traits"]), jobs)


def find_words(line: Sequence[str], known: Sequence[Words] | Mapping[Words, Command]) -> Words:
    """Return those of the known commands' words that a line begins with, the longest; () if none.

    >>> find_words(["probe", "run", "x=1"], [("probe",), ("probe", "run"), ("make",)])
    ('probe', 'run')
    """
    fitting = [words for words in known if tuple(line[: len(words)]) == words]
    return max(fitting, key=len, default=())


def describe_lines(command: Command, lines: list[list[str]]) -> Description:
    """Return the Description of one command and its lines."""
    jobs = []
    for line in lines:
        try:
            jobs += _describe_line(command, line)
        except Failure as error:
            jobs.append(JobDescription(line, faults=[str(error)]))
    return Description(command.traits, jobs)


def answer(commands: Mapping[Words, Command]) -> None:
    """Be the program of a package's ``describe``; leaves by sys.exit."""
    package = next(iter(commands))[0]

    def main(argv: list[str]) -> int:
        words = (package, *argv)
        if words not in commands:
            known = ", ".join(" ".join(words) for words in commands)
            raise UserError(f"'{' '.join(words)}' describes nothing; these do: {known}")
        lines = json.load(sys.stdin)
        with contextlib.redirect_stdout(sys.stderr):  # reading shards shows progress
            described = describe_lines(commands[words], lines)
        print(described.to_json())
        return 0

    run(main)


def describe_config(
    schema: type[Config], line: list[str], words: Words, folder_key: str
) -> tuple[Config | None, JobDescription]:
    """Return (config, description) of a command that takes a config file, all faults in it.

    Args:
        schema: the config's dataclass.
        line: the command's arguments.
        words: the command's.
        folder_key: of its CommandTraits.
    """
    command = " ".join(words)
    if not line or "=" in os.path.basename(line[0]):
        raise UserError(
            f"python -m slurm {command}: a config file comes first, then key=value; see --help"
        )
    line = [find_config(line[0], command), *line[1:]]
    job = JobDescription(line)
    config, job.faults = parse_all(schema, line, command)
    if config is not None:
        job.config = flat(config)
        folder = job.config[folder_key]
        job.folder = folder if isinstance(folder, str) else None
    return config, job


def describe_keys(
    schema: type[Config],
    line: list[str],
    words: Words,
    find_results: Callable[[Config, list[str]], str],
    least: int = 0,
) -> JobDescription:
    """Return the description of a command that takes keys and paths, no config file.

    Args:
        find_results: from (config, [path, ...]) to where the results go.
        least: number of paths that it takes at least; 0: it takes none.
    """
    config, paths = parse_line(schema, line, words, least)
    return JobDescription(line, flat(config), find_results(config, paths))


def parse_line(
    schema: type[Config], line: list[str], words: Words, least: int = 0
) -> tuple[Config, list[str]]:
    """Return (config, [path, ...]) of a command that takes keys and paths.

    Args:
        least: number of paths that it takes at least; 0: it takes none.
    Raises:
        UserError: what is wrong with the line.
    """
    command = " ".join(words)
    return parse_keys(schema, line, command, least)


def describe_evaluation(
    job: JobDescription, config: TrainConfig, check: Callable[[list[str]], None]
) -> None:
    """Say in a run's description how its checkpoints are evaluated, if they are.

    Args:
        check: raises UserError where the evaluating command would refuse these words.
    """
    if not config.evaluate.every:
        return
    words = config.evaluation("{checkpoint}")
    job.evaluation = {"every": config.evaluate.every, "steps": config.steps, "words": words}
    try:
        check(words)
    except Failure as error:
        job.faults.append(f"evaluate: {error}")


def _describe_line(command: Command, line: list[str]) -> list[JobDescription]:
    """Return one description, or one for each checkpoint that is asked for."""
    asked = [word for word in line if word.startswith(CHECKPOINTS)]
    if command.traits.takes_config or not asked:
        return [command.describe(line)]
    rest = [word for word in line if word not in asked]
    base, lines = _find_checkpoints(command.traits, rest, asked[-1].removeprefix(CHECKPOINTS))
    first = command.describe(next(iter(lines.values())))  # the others differ in the checkpoint
    jobs = []
    for name, arguments in lines.items():
        job = JobDescription(arguments, first.config, base, name, first.faults, first.notes)
        jobs.append(job)
    return jobs


def _find_checkpoints(
    traits: CommandTraits, line: list[str], asked: str
) -> tuple[str, dict[str, list[str]]]:
    """Return (folder of all results, {checkpoint's name: arguments}).

    Args:
        asked: "all", or steps with commas between.
    Raises:
        UserError: no run is named, or a checkpoint that is wanted is not there.
    """
    at = [i for i, word in enumerate(line) if "=" not in word or os.path.exists(word)]
    old = next((word for word in line if word.startswith("run=")), None)
    if not at and old is not None:
        raise UserError(f"{old}: run is given without its name: write {old.removeprefix('run=')}")
    if len(at) != 1:
        raise UserError(f"checkpoints={asked} are those of one run, and {len(at)} are named")
    run = expand_home(line[at[0]]).rstrip("/")
    out = next((word.removeprefix("out=") for word in line if word.startswith("out=")), None)
    rest = [word for i, word in enumerate(line) if i != at[0] and not word.startswith("out=")]
    lines = {}
    for step in _choose_steps(run, asked):
        path = eval_jobs.checkpoint_of(run, step)
        result = _results_of(traits, run, out, path.name)
        words = [str(path), *rest]
        lines[path.name] = [*words, f"out={result}"] if result else words
    within = os.path.dirname(traits.results)
    base = out or (os.path.join(run, within) if within else str(RunFolder(run).evaluations))
    return base, lines


def _choose_steps(run: str, asked: str) -> list[int]:
    """Return the steps of a run's complete checkpoints that are asked for, in order."""
    there = list_complete(run)
    wanted = [str(step) for step in there] if asked == "all" else asked.split(",")
    missing = [text for text in wanted if not text.isdecimal() or int(text) not in there]
    if wanted and not missing:
        return sorted({int(text) for text in wanted})
    if not there:
        raise UserError(f"checkpoints={asked}: {run} has no complete checkpoint")
    steps = ", ".join(map(str, there))
    raise UserError(f"checkpoints={asked}: {run} has complete checkpoints of steps {steps}")


def _results_of(traits: CommandTraits, run: str, out: str | None, name: str) -> str:
    """Return what one checkpoint gets as out=; "" for the command's own default."""
    if out:
        return f"{out}/{name}{Path(traits.results).suffix}"
    if traits.results:
        return f"{run}/{traits.results.replace('{step}', name)}"
    return ""
