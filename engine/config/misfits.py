"""Keys of a config file that the command line has taken away, by plugging in something else."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from engine.config.schema import choose_schema, find_key
from engine.config.shipped import config_folder
from engine.errors import UserError

Pairs = Sequence[tuple[str, object]]


def refuse_misfits(
    schema: type, pairs: Pairs, words: Sequence[tuple[str, str]], path: str, command: str
) -> None:
    """Refuse keys of a file that are known without one of the command line's words alone.

    ``head.name=dense`` on top of a config of another head leaves that head's keys without meaning.

    Args:
        schema: before anything is chosen.  pairs: of the file.  words: of the command line.
        path: of the file.  command: such as "finetune train".
    Raises:
        UserError: a key is unknown that was known; it names the word, and a config that has it.
    """
    chosen = choose_schema(schema, [*pairs, *words])
    for dotted, _ in pairs:
        if find_key(chosen, dotted) is not None:
            continue
        for number, (name, text) in enumerate(words):
            others = [*words[:number], *words[number + 1 :]]
            if find_key(choose_schema(schema, [*pairs, *others]), dotted) is None:
                continue
            fitting = _find_config(name, text, command)
            hint = f"; {fitting} is a config with it" if fitting else ""
            raise UserError(f"there is no '{dotted}', as {path} has it, with {name}={text}{hint}")


def _find_config(name: str, text: str, command: str) -> str:
    """The config of a command, among those that ship, that sets a key so; "" where none does."""
    folder = config_folder() / command.split()[0]
    for path in sorted(folder.glob("*.yaml")):
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        if tree.get("command") == command and _look_up(tree, name.split(".")) == text:
            return str(Path("configs") / folder.name / path.name)
    return ""


def _look_up(tree: object, names: Iterable[str]) -> object:
    for name in names:
        tree = tree.get(name) if isinstance(tree, dict) else None
    return tree
