"""The model card beside an exported encoder: what it is, how to load it, where it comes from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data.cropping.geometry import word_size
from data.loading.augment import MEAN, STD
from data.sampling.seen import Seen
from data.storage.fetch import base_name
from engine.config.parser import read_file
from engine.config.paths import split_paths
from engine.run.run_folder import find_run
from pretrain import state_dict_adapters
from pretrain.config import ModelConfig

if TYPE_CHECKING:
    from pretrain.weights import Source

# Keys of a run's config that a card tells.
TOLD = (
    "init",
    "steps",
    "batch",
    "seed",
    "masking.ratio",
    "masking.reference_ratio",
    "objective.target",
)


def describe_run(path: Path) -> list[str]:
    """Return lines about the run that a weights file lies in, of its config.yaml.

    None where there is no run.
    """
    run = find_run(path)
    if run is None or not run.config.is_file():
        return []
    pairs = dict(read_file(str(run.config), "pretrain train"))
    lines = []
    for name, value in pairs.items():
        if name == "data.shards" and value:
            lines.append(f"data: {_shard_names(value)}")
        elif name.startswith("data.sources.") and name.endswith(".shards"):
            label = name.split(".")[2]
            weight = pairs.get(f"data.sources.{label}.weight", "1.0")
            lines.append(f"data: {label} ({_shard_names(value)}), weight {weight}")
        elif name in TOLD and value not in ("", "null"):
            lines.append(f"{name}: {Path(str(value)).name if name == 'init' else value}")
    return lines


def _shard_names(spec: str | list[str]) -> str:
    """The last parts of what a key names.

    What follows a URL's question mark is left out: it may be a signature.
    """
    return ", ".join(base_name(path) for path in split_paths(spec))


def write_card(config: ModelConfig, out: Path, found: Source, history: Sequence[str]) -> str:
    """Return the text of a card, in Markdown.

    Args:
        out: the encoder's file.  found: the weights that it was exported from.
        history: lines of ``describe_run``.
    """
    name, arguments = state_dict_adapters.timm_call(config)
    listed = ""
    for key, value in arguments.items():
        listed += f"    {key}={json.dumps(value) if isinstance(value, str) else value},\n"
    e = config.encoder
    patches = f"[:, {e.prefix}:]" if e.prefix else ""
    known = "\n".join(f"- {line}" for line in (*history, *_lines_of_seen(found.seen)))
    return f"""# {out.stem}

{_origin(config, found)}

- width {e.width}, depth {e.depth}, heads {e.heads}; patches of {config.patch} px,
  images of {word_size(config.size)} px
- positions: {_word_positions(config)}
- before the patches: {_word_prefix(e.prefix)}; norms add {e.epsilon:g} to variances
- input: RGB in [0, 1], minus the mean {MEAN}, over the standard deviation {STD}

## How to load

```python
import timm

model = timm.create_model(
    "{name}",
{listed}    checkpoint_path="{out.name}",
)
```

`model(x)` averages the patches, then normalises: ({e.width},) an image. One feature a patch, as in
pre-training: `model.fc_norm(model.forward_features(x)){patches}`, (patches, {e.width}), row by row.

## Where it comes from

{known}

## Licence

The software is under Apache-2.0. The weights follow from the images and from the weights that
training started from: check the licences of both before passing this file on (the released CroCo
weights are for non-commercial use).
"""


def _word_positions(config: ModelConfig) -> str:
    """How an encoder knows where its patches lie."""
    if config.position == "learnt":
        return "learnt vectors"
    span = f", across the image those of {config.position_span:g} patches"
    across = span if config.position_span else ""
    if config.position == "cosine":
        return f"fixed sine-cosine{across}"
    return f"rotary, base {config.rope_base:g}, rows first{across}"


def _word_prefix(count: int) -> str:
    """What stands before the patches."""
    if not count:
        return "no class token"
    more = {1: "", 2: " and a register"}.get(count, f" and {count - 1} registers")
    return f"a class token{more}"


def _origin(config: ModelConfig, found: Source) -> str:
    """What kind of training an encoder is of, as far as its file says."""
    if not found.ours:
        return (
            f"The encoder of {found.path.name}, a checkpoint of CroCo's layout that other software "
            f"wrote: a network that\n"
            "completes a masked image with the help of another one of the same scene. The file "
            "does not say which\n"
            "images, of what or of whom, it was trained on. Converted with counterpose."
        )
    how = (
        "pre-trained as a masked autoencoder: it completed the masked patches of an image of "
        "a\nperson from the others."
    )
    if config.decoder.cross:
        how = (
            "pre-trained by cross-view and cross-pose completion: it completed the masked patches "
            "of an\nimage of a person with the help of another image of the same person."
        )
    return f"The encoder of a network that was {how} No labels were used. Made with\ncounterpose."


def _lines_of_seen(seen: Seen) -> Iterator[str]:
    """Lines of a card on what training saw, never empty."""
    if seen.clips:
        people = " and ".join(sorted(seen.kinds)) or "whether synthetic or real is not recorded"
        yield (
            f"seen in training: {sum(seen.clips.values())} clips in {len(seen.clips)} shards, "
            f"people: {people}; the digests are in the file"
        )
    for words in seen.unknown:
        yield f"not known: {words}"
    if not seen.clips and not seen.unknown:
        yield "seen in training: nothing"
