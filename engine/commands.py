"""Verbs of a package's command line, ``python -m PACKAGE VERB ...``: one table a package.

A table names where each verb's function is and imports none of it, so that ``--help`` and the
completion of a shell cost no import of torch, and a loader's worker that imports ``__main__`` anew
gets little with it.
"""

import difflib
import importlib
import os
import shlex
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from engine.distributed.startup import starting
from engine.errors import UserError
from engine.run import signals

WIDTH = 98
UNBROKEN = {"break_long_words": False, "break_on_hyphens": False}
LINES = 24  # of a screen, which no help exceeds but that of all keys


@dataclass(frozen=True)
class Verb:
    """One verb of a package.

    Attributes:
        name: one word, or several where the verb is a command of another package.
        run: "module:function" from the words after the verb to the exit code; of one that
            ``trains`` from its config.
        summary: what it does, in a line.
        arguments: what follows it, for the usage line.
        example: what follows it in an example.
        keys: "module:Class", the dataclass of its keys; the module does not import torch.
        usual: names of the keys that its help shows first.
        prefix: of its keys on the command line, such as "slurm.".
        registry: "module:REGISTRY" of one whose first word, NAME, chooses a dataclass with more
            keys.
        takes_config: a config file comes first.
        trains: a training run: a signal ends it until it saves at one, and what fails on a rank
            before the process group exists reaches the others.
        starts_ranks: what fails while it is imported reaches the other ranks too.
        whole: ``run`` gets the verb's own words too.
    """

    name: str
    run: str
    summary: str
    arguments: str
    example: str
    keys: str = ""
    usual: tuple[str, ...] = ()
    prefix: str = ""
    registry: str = ""
    takes_config: bool = False
    trains: bool = False
    starts_ranks: bool = False
    whole: bool = False


@dataclass(frozen=True)
class Package:
    """The verbs of a package.

    Attributes:
        summary: what they are for, in a line.
        example: a whole example without what stands before the package's name.
        notes: further lines of its help.
        default: the verb that a config file without a verb was meant for, or "".
    """

    name: str
    summary: str
    verbs: tuple[Verb, ...]
    example: str
    notes: tuple[str, ...] = ()
    default: str = ""


def run_package(package: Package, argv: Sequence[str], program: str = "python -m") -> int:
    """Run the verb that a command line names; returns its exit code.

    Args:
        argv: the words after the package's name.  program: what was typed before that name.
    Raises:
        UserError: no such verb; what the verb raises.
    """
    argv = list(argv)
    if not argv or argv[0] in ("--help", "-h", "help"):
        print(package_help(package, program))
        return 0
    verb = find_verb(package, argv)
    if verb is None:
        raise UserError(_explain_unknown(package, argv, program))
    words = argv[len(verb.name.split()) :]
    if "--help" in words or "-h" in words:
        shown = name_choice(verb, words[0]) if verb.registry else verb
        print(verb_help(package, shown, program, everything="all" in words))
        return 0
    if verb.trains:
        return _train(package, verb, words)
    if verb.starts_ranks:
        with starting():
            load_name(verb.run)
    return load_name(verb.run)(argv if verb.whole else words)


def _train(package: Package, verb: Verb, words: list[str]) -> int:
    signals.leave_on_signal()
    with starting():
        from engine.config.parser import parse

        config = parse(load_name(verb.keys), words, f"{package.name} {verb.name}")
        train = load_name(verb.run)
    return train(config)


def find_verb(package: Package, argv: Sequence[str]) -> Verb | None:
    """Returns the verb whose words a command line begins with, or None."""
    for verb in package.verbs:
        words = verb.name.split()
        if list(argv[: len(words)]) == words:
            return verb
    return None


def name_choice(verb: Verb, word: str) -> Verb:
    """Returns the verb of one NAME of a verb with a ``registry``, with the keys of that one.

    Args:
        word: the first after the verb; the verb itself is returned where it is an option.

    Raises:
        UserError: there is no such name.
    """
    registry = load_name(verb.registry)
    if word.startswith("-"):
        return replace(verb, summary=f"{verb.summary}; NAME: {', '.join(registry.list_names())}")
    chosen = registry.find(word)
    shared = {field.name for field in fields(load_name(verb.keys))}
    own = [field.name for field in fields(chosen) if field.name not in shared]
    return replace(
        verb,
        name=f"{verb.name} {word}",
        arguments=verb.arguments.removeprefix("NAME "),
        example=verb.example.partition(" ")[2],
        keys=f"{chosen.__module__}:{chosen.__name__}",
        usual=(*verb.usual, *own),
    )


def load_name(place: str) -> Any:
    """Returns what "module:name" names, a function or a class; imports the module."""
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)


def closest(word: str, names: Sequence[str]) -> str:
    """Returns "; did you mean 'NAME'?" of the name most like a word, or "" where none is."""
    near = difflib.get_close_matches(word, names, 1, 0.5)
    return f"; did you mean '{near[0]}'?" if near else ""


def _explain_unknown(package: Package, argv: list[str], program: str) -> str:
    """Returns what to type instead of a command line that names no verb."""
    call = f"{program} {package.name}"
    names = [verb.name for verb in package.verbs]
    takers = [verb.name for verb in package.verbs if verb.takes_config]
    first, words = argv[0], argv
    several = [name for name in names if name.startswith(f"{first} ")]
    if several and argv[1:] in ([], ["--help"], ["-h"]) and f"{first} train" not in takers:
        return f"'{first}' wants one word more: {', '.join(several)}; {call} --help says what for"
    if len(argv) > 1 and f"{first} train" in takers:  # of slurm, where the package comes first
        takers, words = [f"{first} train"], argv[1:]
    if words[0].endswith((".yaml", ".yml")) and takers:
        verb = package.default if package.default in takers else " or ".join(takers)
        return f"the verb comes before the config: write {call} {verb} {shlex.join(words)}"
    both = " ".join(argv[:2]) if any(" " in name for name in names) else first
    hint = closest(both, names) or closest(first, names) or f": {', '.join(names)};"
    typed = both if several else first
    return f"'{typed}' is not a verb of {call}{hint} {call} --help lists all"


def package_help(package: Package, program: str = "python -m") -> str:
    """Returns the help of a package: its verbs, a line each, and an example."""
    call = f"{program} {package.name}"
    width = max(len(verb.name) for verb in package.verbs)
    rows = [f"  {verb.name:<{width}}  {verb.summary}" for verb in package.verbs]
    parts = [
        [f"usage: {call} VERB ...  (VERB --help: its keys)", package.summary],
        rows,
        [*package.notes],
        ["example:", f"  {program} {package.example}"],
    ]
    parts = [part for part in parts if part]
    # A package of many verbs goes without lines between the parts, to fit a screen.
    count = sum(len(part) for part in parts) + len(parts) - 1
    between = "\n\n" if count <= LINES else "\n"
    return between.join("\n".join(part) for part in parts)


def verb_help(package: Package, verb: Verb, program: str, everything: bool = False) -> str:
    """Returns the help of a verb: the usual keys, all where they fit a screen or are asked for."""
    call = f"{program} {package.name} {verb.name}"
    usage = textwrap.wrap(
        f"usage: {call} {verb.arguments}", WIDTH, subsequent_indent="         ", **UNBROKEN
    )
    head = [*usage, *textwrap.wrap(verb.summary, WIDTH), ""]
    example = f"{call} {verb.example}"
    tail = ["", "example:", *_wrap_command(example)]
    rows = _key_rows(verb)
    shown = _layout_keys(rows)
    if everything or len(head) + len(shown) + len(tail) <= LINES:
        return "\n".join([*head, *shown, *tail])
    usual = [row for name in verb.usual for row in rows if row[0] == name]
    more = [f"all {len(rows)} keys: {call} --help all"]
    return "\n".join([*head, *_layout_keys(usual), *more, *tail])


def _wrap_command(text: str) -> list[str]:
    """Returns a command in lines that a shell takes as one."""
    lines = textwrap.wrap(text, WIDTH - 4, subsequent_indent="  ", **UNBROKEN)
    return [f"  {line} \\" for line in lines[:-1]] + [f"  {lines[-1]}"]


def _key_rows(verb: Verb) -> list[tuple[str, str, str, str]]:
    """Returns [(name, name=default, type, meaning), ...] of a verb's keys."""
    if not verb.keys:
        return []
    from engine.config.key_list import list_rows

    rows = list_rows(load_name(verb.keys))
    return [(name, f"{verb.prefix}{shown}", kind, text) for name, shown, kind, text in rows]


def _layout_keys(rows: list[tuple[str, str, str, str]]) -> list[str]:
    """Returns keys in columns, meanings wrapped."""
    if not rows:
        return []
    names = min(34, max(len(row[1]) for row in rows))
    kinds = max(len(row[2]) for row in rows)
    indent = " " * (names + kinds + 6)
    out = []
    for _, shown, kind, text in rows:
        lead = f"  {shown:<{names}}  {kind:<{kinds}}  "
        if len(lead) > len(indent):
            out.append(lead.rstrip())
            lead = indent
        out += textwrap.wrap(text or "-", WIDTH, initial_indent=lead, subsequent_indent=indent)
    return out


def list_configs(package: str, verb: str) -> list[str]:
    """Returns the names of the configs that are shipped for a verb, sorted."""
    from engine.config.shipped import config_folder

    folder = config_folder() / package
    wanted = f"command: {package} {verb}"
    out = []
    for name in sorted(os.listdir(folder)) if folder.is_dir() else []:
        path = folder / name
        if path.suffix != ".yaml":
            continue
        lines = path.read_text(encoding="utf-8").splitlines()
        if any(line.strip() == wanted for line in lines):
            out.append(path.stem)
    return out


def list_words(package: Package, verb: Verb, typed: Sequence[str], current: str) -> list[str]:
    """Returns the words that may follow those typed after a verb: configs, keys, values.

    Args:
        current: the word under way; after its "=" the values of a key are listed.
    """
    # A verb of slurm completes as that of the package whose command it submits.
    command = verb.name if verb.whole else f"{package.name} {verb.name}"
    words = []
    if verb.takes_config and not typed and "=" not in current:
        words += list_configs(*command.split(" ", 1))
    for name in _key_schemas(verb, command):
        words += _complete_keys(*name, current)
    given = {word.partition("=")[0] for word in typed}
    return [word for word in words if word.partition("=")[0] not in given]


def _key_schemas(verb: Verb, command: str) -> list[tuple[str, str]]:
    """Returns [("module:Class", prefix), ...] of the keys that a verb takes."""
    schemas = [(verb.keys, verb.prefix)] if verb.keys else []
    if verb.whole:
        name, _, own = command.partition(" ")
        other = find_verb(load_name(f"{name}.__main__:PACKAGE"), own.split())
        if other is not None:
            schemas.append((other.keys, ""))
    return schemas


def _complete_keys(schema: str, prefix: str, current: str) -> list[str]:
    """Returns "key=" of a schema, or "key=value" for the values of the key under way."""
    from engine.config.key_list import list_choices

    choices = list_choices(load_name(schema))
    if "=" not in current:
        return [f"{prefix}{name}=" for name in choices]
    typed = current.partition("=")[0]
    values = choices.get(typed.removeprefix(prefix), ()) if typed.startswith(prefix) else ()
    return [f"{typed}={value}" for value in values]
