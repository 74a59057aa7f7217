"""``python -m finetune evaluate RUN protocol=NAME``: a protocol's numbers of a run on shards.

The run sees each labelled crop with its camera; a Collector brings what it finds and what the
labels say to what the protocol measures.
"""

from data.format.clip import KINDS
from data.format.labels import read_labels
from data.loading.build import open_crop_order
from data.loading.reader import ClipReader
from data.storage.shard_store import Store
from engine.errors import UserError
from engine.logging import progress
from finetune.evaluation.collector import Collector
from finetune.evaluation.protocols import (
    PROTOCOLS,
    KeypointProtocol,
    Protocol,
    RunHands,
    RunProtocol,
    Scores,
)
from finetune.evaluation.run_frames import FrameCollector
from finetune.evaluation.run_hands import HandCollector
from finetune.evaluation.run_keypoints import KeypointCollector
from finetune.evaluation.selection import (
    choose_data,
    leave_out,
    leave_out_known,
    leave_out_near,
    take_all,
)
from finetune.inference.predictor import Predictor
from finetune.verb_config import EvaluateConfig
from pretrain import header


def evaluate_protocol(config: EvaluateConfig) -> tuple[Protocol, Scores]:
    """Return the protocol and its numbers of a run; writes the submission if one is named.

    Raises:
        UserError: the run does not answer what the protocol measures, joints that it cannot do
            without are not there, or no clip is left.
    """
    protocol = PROTOCOLS.find(config.protocol)()
    predictor = Predictor(config.run, config.device)
    collector = _open_collector(protocol, predictor, config)
    notes = _read_crops(config, predictor, collector)
    scores = collector.finish()
    scores.notes += notes
    return protocol, scores


def _open_collector(protocol: Protocol, predictor: Predictor, config: EvaluateConfig) -> Collector:
    """The one that fits the protocol, after a check that the run does."""
    kind, body = predictor.body.kind, predictor.body.name
    if kind != protocol.kind:
        raise UserError(
            f"protocol={config.protocol} is of a {protocol.kind}, run={config.run} recovers a "
            f"{kind}"
        )
    if isinstance(protocol, KeypointProtocol):
        return KeypointCollector(protocol, predictor, config)
    if not isinstance(protocol, RunProtocol):
        raise UserError(
            f"protocol={config.protocol} scores files alone: write predictions in its form and "
            f"score them with `finetune score`"
        )
    if not predictor.model.head.has_mesh:
        raise UserError(
            f"protocol={config.protocol} measures people in space, and run={config.run} has "
            f"head.name={predictor.config.head.name}, which answers in the image: "
            f"{_list_flat()} measure that"
        )
    if protocol.bodies and body not in protocol.bodies:
        raise UserError(
            f"protocol={config.protocol} is of {' or '.join(protocol.bodies)}, run={config.run} "
            f"recovers {body}: convert its predictions (`counterpose bodies convert`), write them "
            f"in the protocol's form and score them with `finetune score`"
        )
    run = protocol.open_run(config, body)
    if isinstance(run, RunHands):
        return HandCollector(protocol, run, predictor, config)
    return FrameCollector(protocol, run, predictor, config)


def _list_flat() -> str:
    """Names of the protocols on keypoints in images."""
    names = PROTOCOLS.list_names()
    flat = [name for name in names if issubclass(PROTOCOLS.find(name), KeypointProtocol)]
    return " and ".join(f"protocol={name}" for name in flat)


def _read_crops(config: EvaluateConfig, predictor: Predictor, collector: Collector) -> list[str]:
    """Give all crops that the run has not seen to a collector; return sentences on the others."""
    data = choose_data(config, predictor)
    order = open_crop_order(data, 1, 0)
    take_all(order)
    every = sum(len(source.val) for source in order.sources)
    seen = header.read_seen(predictor.checkpoint)
    leave_out(order, seen)
    store = Store(data.cache.open())
    notes = leave_out_near(order, [seen], predictor, store)
    notes += leave_out_known(order, [seen], store)
    clips = [(s.paths[shard], i) for s in order.sources for shard, i in s.val]
    if not clips:
        raise UserError(f"{config.data.shards}: no clip that the run was not trained on")
    if len(clips) < every:
        notes.append(f"{every - len(clips)} of {every} clips were left out: the run knows them.")
    if len(clips) > config.clips:
        notes.append(
            f"The first {config.clips} of {len(clips)} clips count; clips={len(clips)} takes all, "
            f"as papers do."
        )
        clips = clips[: config.clips]
    reader = ClipReader(store)
    with progress.bar(len(clips), "clip", description="evaluating") as bar:
        for path, index in clips:
            clip, members = reader.clip(path, index)
            if "labels.npz" in members:
                labels = read_labels(store.read(path, *members["labels.npz"]), len(clip.crops))
                for number, crop in enumerate(clip.crops):
                    if (crop.kind == KINDS[0]) == (predictor.body.kind == "body"):
                        pixels = reader.image(path, members, number)
                        collector.add(clip, crop, pixels, labels.at(number))
            bar.update(1)
    return notes
