"""What a run's numbers are and how they are drawn: name, unit, group, what stands beside what.

    METRICS = MetricBook(
        groups=(Group("probe", "3D probe", "Error of joints, from frozen features."),),
        metrics=(Metric("mpjpe", "MPJPE", "mm", lower_is_better=True),),
    )

A task has such a book; the engine has one of what every run logs. Both are written into the run's
folder when it starts (``metrics.json``), so that the report draws a run of any task without knowing
the task. A run without the file is drawn too, under the names of its keys.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import UserError
from engine.run.files import write_file
from engine.run.patience import read_bytes
from engine.run.run_folder import RunFolder

FORMAT = 1
Look = str  # how a curve is drawn: "solid", "dashed" or "faint"


@dataclass(frozen=True)
class Metric:
    """A number of the log.

    Attributes:
        name: "GROUP/NAME", or "NAME" for that number in whatever group.
        title: for people.  unit: "" where there is none.
        lower_is_better: None where neither is better.
        log_scale: its values spread over decades.
    """

    name: str
    title: str
    unit: str = ""
    lower_is_better: bool | None = None
    log_scale: bool = False


@dataclass(frozen=True)
class Companion:
    """A number that is drawn in the chart of another one: that of KEY is logged as KEY + suffix.

    Attributes:
        suffix: such as "_constant", for probe/mpjpe_constant beside probe/mpjpe.
        label: what it is called in the legend.  look: of its curve.
        colour: of what training does not change, which is drawn once for all runs; "": the run's
            own.
    """

    suffix: str
    label: str
    look: Look = "dashed"
    colour: str = ""


@dataclass(frozen=True)
class Group:
    """The numbers under "PREFIX/", which have a part of the page.

    Attributes:
        title, text: the part's heading, and what to look for.
        companions: of each of its numbers.
        label: what the number itself is called where it has a companion of the run's own colour.
        look: of its curve there.
        beside: the group in whose charts these numbers are drawn, where that has one of the name;
            "": none.
        position: on the page; those with lower numbers come first.
    """

    prefix: str
    title: str
    text: str = ""
    companions: tuple[Companion, ...] = ()
    label: str = ""
    look: Look = "solid"
    beside: str = ""
    position: int = 40


@dataclass(frozen=True)
class MetricBook:
    """What numbers and images mean.

    Attributes:
        groups: in the order of the page.  metrics: in any order.
        images: {kind: title}; kind is what stands before the step in the name of an image.
    """

    groups: tuple[Group, ...] = ()
    metrics: tuple[Metric, ...] = ()
    images: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def extend(self, other: "MetricBook") -> "MetricBook":
        """A book with what ``other`` says on top: it replaces what is of the same name."""
        groups = {group.prefix: group for group in self.groups}
        groups |= {group.prefix: group for group in other.groups}
        metrics = {metric.name: metric for metric in self.metrics}
        metrics |= {metric.name: metric for metric in other.metrics}
        ordered = sorted(groups.values(), key=lambda group: group.position)
        return MetricBook(tuple(ordered), tuple(metrics.values()), {**self.images, **other.images})

    def find_metric(self, key: str) -> Metric:
        """The Metric of a key of the log, such as "probe/mpjpe".

        One named after the key where nobody described it.
        """
        rest = key.partition("/")[2]
        named = {metric.name: metric for metric in self.metrics}
        plain = Metric(key, rest.replace("_", " ").replace("/", ", "))
        return named.get(key) or named.get(rest) or plain

    def find_group(self, prefix: str) -> Group:
        """The Group of a prefix; one named after it where nobody described it."""
        named = {group.prefix: group for group in self.groups}
        return named.get(prefix) or Group(prefix, prefix.replace("_", " ").capitalize())

    def find_host(self, key: str, keys: Sequence[str]) -> str | None:
        """The key in whose chart ``key`` is drawn, of all ``keys`` that were logged.

        None: its own.
        """
        prefix, _, rest = key.partition("/")
        group = self.find_group(prefix)
        if group.beside and f"{group.beside}/{rest}" in keys:
            return f"{group.beside}/{rest}"
        for companion in group.companions:
            host = key.removesuffix(companion.suffix)
            if host != key and host in keys:
                return host
        return None


ENGINE_METRICS = MetricBook(
    groups=(
        Group(
            "loss",
            "Loss",
            "Mean since the last line (thin) and of fixed validation samples (strong).",
            label="training",
            look="faint",
            position=0,
        ),
        Group(
            "val",
            "Validation",
            "On fixed samples that are never trained on.",
            label="validation",
            beside="loss",
            position=20,
        ),
        Group(
            "evaluation",
            "Evaluation",
            "Of checkpoints, in processes or jobs of their own beside the training.",
            position=60,
        ),
        Group("optim", "Optimisation", position=70),
        Group("speed", "Speed", position=71),
        Group("memory", "Memory", position=72),
    ),
    metrics=(
        Metric("lr", "learning rate"),
        Metric("grad_norm", "gradient norm", log_scale=True),
        Metric("param_norm", "norm of all weights"),
        Metric("speed/data_wait_share", "waiting for data", "of the time", lower_is_better=True),
        Metric("speed/mfu", "share of the peak", "of the device's peak", lower_is_better=False),
        Metric("speed/slowest_rank", "slowest rank"),
        Metric("speed/slowest_share", "own time of the slowest rank", "over the median"),
        Metric("memory/host_gib", "first process", "GiB"),
        Metric("memory/device_gib", "first GPU", "GiB"),
    ),
)


def name_speeds(unit: str) -> MetricBook:
    """The book of a run's speeds. ``unit``: what a step learns from, such as "pairs"."""
    rate = f"{unit}_per_s"
    return MetricBook(
        metrics=(
            Metric(f"speed/{rate}", f"{unit} a second", lower_is_better=False),
            Metric(f"speed/{rate}_device", f"{unit} a second and device", lower_is_better=False),
        )
    )


def write_metrics(folder: Path, book: MetricBook) -> None:
    """Write what a run's numbers are into its folder.

    Raises:
        OSError: as it comes.
    """
    tree = {"format": FORMAT, **dataclasses.asdict(book)}
    write_file(RunFolder(folder).metrics, json.dumps(tree, indent=1))


def read_metrics(folder: Path) -> MetricBook:
    """What a run's numbers are; the engine's own book of a run that does not say.

    Raises:
        UserError: the file is damaged, or a newer version wrote it.
        EnvironmentFault: it cannot be read for now.
    """
    path = RunFolder(folder).metrics
    data = read_bytes(path)
    if data is None:
        return ENGINE_METRICS
    try:
        tree = json.loads(data)
        if tree["format"] > FORMAT:
            raise UserError(
                f"{path} has format {tree['format']}; this software reads up to {FORMAT}"
            )
        return MetricBook(
            tuple(_read_group(group) for group in tree["groups"]),
            tuple(Metric(**metric) for metric in tree["metrics"]),
            dict(tree["images"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} does not describe metrics: {error}; remove it") from None


def _read_group(tree):
    companions = tuple(Companion(**companion) for companion in tree["companions"])
    keys: dict[str, Any] = {**tree, "companions": companions}
    return Group(**keys)
