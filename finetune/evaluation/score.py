"""``python -m finetune score``: a protocol's numbers of a file of predictions."""

import json
from dataclasses import asdict

from engine.config.parser import parse_keys
from engine.errors import explain, failure_of
from engine.run.files import write_file
from finetune.evaluation.protocols import PROTOCOLS, Protocol, Scores
from finetune.verb_config import ScoreConfig


def main(argv: list[str]) -> int:
    """``python -m finetune score``; returns the exit code."""
    config, _ = parse_keys(ScoreConfig, argv, "finetune score")
    protocol = PROTOCOLS.find(config.protocol)()
    scores = protocol.score_files(config)
    print(describe_scores(protocol, scores))
    if config.out:
        write_scores(config.out, config.protocol, protocol, scores)
        print(f"wrote {config.out}")
    return 0


def describe_scores(protocol: Protocol, scores: Scores) -> str:
    """Return the numbers as lines of one text: the script's key, the number, what it is."""
    lines = [f"{protocol.title}, {scores.frames} frames, as {protocol.script} has it"]
    width = max(len(value.key) for value in scores.values)
    for value in scores.values:
        words = f"{value.name} ({value.unit})" if value.unit else value.name
        beside = "" if value.by_script else "; not printed by the script"
        lines.append(f"{value.key:<{width}}  {value.write():>12}  {words}{beside}")
    return "\n".join([*lines, *scores.notes])


def write_scores(path: str, name: str, protocol: Protocol, scores: Scores) -> None:
    """Write the numbers as JSON, unrounded.

    Raises:
        UserError: the file cannot be written.
    """
    value = {
        "format": 1,
        "protocol": name,
        "script": protocol.script,
        "frames": scores.frames,
        "values": [asdict(one) for one in scores.values],
        "notes": scores.notes,
    }
    try:
        write_file(path, json.dumps(value, indent=1))
    except OSError as error:
        raise failure_of(error, f"out={path} cannot be written: {explain(error)}") from None
