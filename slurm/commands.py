"""The commands that can be sent to a cluster, by name alone: this room imports none of the
others."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Room:
    """One command.

    Attributes:
        words: such as ("finetune", "train").  schema: "module:Class" of its config.
        folder: the key that names its folder.  training: several ranks that go on from checkpoints.
        parts: it takes part=K/N, so that an array can share its work.
        plain: of one that takes no config file: "module:function" from its (config, [path, ...]) to
            where its results go.
        run: of one that looks at a run or a checkpoint: what stands before its path, such as
            "run=".
        results: of such a one: what each of several checkpoints gets as out=, inside the run; "":
            its own default.
    """

    words: tuple
    schema: str
    folder: str
    training: bool = False
    parts: bool = False
    plain: str = ""
    run: str | None = None
    results: str = ""

    @property
    def command(self):
        return " ".join(self.words)


ROOMS = (
    Room(
        ("pretrain", "probe"),
        "pretrain.probe:ProbeCommand",
        "out",
        plain="pretrain.probe:place",
        run="",
        results="probes/{step}.json",
    ),
    Room(
        ("finetune", "evaluate"),
        "finetune.evaluation.config:EvaluateConfig",
        "out",
        plain="finetune.evaluation.config:place",
        run="run=",
    ),
    Room(("pretrain",), "pretrain.config:PretrainConfig", "run", training=True),
    Room(("finetune", "train"), "finetune.config:FinetuneConfig", "run", training=True),
    Room(("data", "make"), "data.people.config:PeopleConfig", "out", parts=True),
    Room(("data", "pairs"), "data.sources.config:PairsConfig", "out", parts=True),
)


def find(words):
    """The Room whose words a command line begins with, or None."""
    for room in ROOMS:
        if tuple(words[: len(room.words)]) == room.words:
            return room
    return None
