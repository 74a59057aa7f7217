"""``python -m data pairs``: clips of real people, cut from videos into shards."""

import glob
import json
import os
from collections.abc import Sequence

from data.find.faces import open_blur
from data.find.store import DETECTIONS, FOLDER
from data.format.shards import shard_name, write_shard
from data.sources import image_folders, multicam, pair_list, video
from data.sources.config import SOURCE_KEYS, STILL_READERS, PairsConfig
from data.sources.cut import Style, cut_clips
from data.sources.plan import digest_plans
from data.sources.probe import Problems
from data.tools.process_pool import Died, spread_isolated
from data.tools.work_split import Part
from engine.config import parser
from engine.errors import UserError, explain, failure_of
from engine.logging import progress
from engine.logging.console import get_logger
from engine.run.files import replace_file, write_file

COMMAND = "data pairs"
READERS = {
    "video": video,
    "multicam": multicam,
    "image_folders": image_folders,
    "pair_list": pair_list,
}
SAVED, DONE = "pairs.yaml", "pairs.done.json"
BROUGHT = ("boxes", "calibration", "timestamps", "track", "found")  # keys that name files
SEARCHED = (FOLDER, DETECTIONS)  # what `data find` leaves in the same folder

log = get_logger(__name__)


def main(argv: Sequence[str]) -> int:
    """Plan the clips, cut them a shard a process, write the shards.

    Returns:
        0, or 1 where a video was skipped; the others' clips are kept.
    Raises:
        UserError: bad keys or files, an output folder of something else, not one clip to cut.
    """
    cfg = parser.parse(PairsConfig, argv, COMMAND)
    _check_files(cfg)
    _check_folder(cfg)
    if cfg.blur_faces:
        open_blur()  # says what is missing before anything is decoded
    problems = Problems()
    plans, videos = READERS[cfg.reader].plan_clips(cfg, problems)
    keys = [plan.key for plan in plans]
    if len(set(keys)) < len(keys):
        raise UserError(
            f"two clips have the key {max(keys, key=keys.count)}: rename one of the videos"
        )
    if not plans and cfg.reader in STILL_READERS:
        name = SOURCE_KEYS[cfg.reader]
        raise UserError(
            f"no clip can be cut from {name}={getattr(cfg, name)}: no two images that can be read "
            f"belong together, or show one person with {cfg.min_inside:g} of the box inside "
            f"(min_inside)"
        )
    if not plans:
        raise UserError(
            f"no clip can be cut from videos={cfg.videos}: nobody is seen at 2 instants "
            f"{cfg.gap_min_s:g} to "
            f"{cfg.gap_max_s:g} s apart (gap_min_s, gap_max_s) with {cfg.min_inside:g} of the box "
            f"inside the "
            "image (min_inside)"
        )
    _prepare_folder(cfg)
    written = _write(cfg, plans, videos, problems)
    crops = sum(len(plan.crops) for plan in plans)
    print(
        f"{written} of {len(plans)} clips ({crops / len(plans):.1f} crops each as planned) of "
        f"{len({p.subject for p in plans})} people in {cfg.out}"
    )
    for path, reason in sorted(problems.skipped.items()):
        log.warning("skipped %s: %s", path, reason)
    return 1 if problems.skipped else 0


def _check_files(cfg):
    """UserError unless the files beside the images are there: videos take long to be indexed."""
    for name in BROUGHT:
        path = getattr(cfg, name)
        if path is not None and not os.path.exists(path):
            raise UserError(f"{name}={path}: no such file or folder")


def _check_folder(cfg):
    """UserError unless ``out`` is empty or was made with the same keys (workers aside)."""
    saved = os.path.join(cfg.out, SAVED)
    if os.path.isfile(saved):
        before = parser.flat(parser.parse(PairsConfig, [saved], COMMAND))
        now = parser.flat(cfg)
        for name in sorted(before.keys() | now.keys()):
            if name not in ("workers", "out", "part") and before.get(name) != now.get(name):
                raise UserError(
                    f"out={cfg.out} was made with {name}={before.get(name)}, now it is "
                    f"{now.get(name)}; "
                    "take another folder"
                )
    elif os.path.exists(cfg.out) and (not os.path.isdir(cfg.out) or _of_others(cfg.out)):
        raise UserError(
            f"out={cfg.out} is not empty and was not made by this command; take another folder"
        )


def _of_others(folder):
    """What it holds but a search of videos and what another part of this command is writing."""
    return [name for name in os.listdir(folder) if ".writing-" not in name and name not in SEARCHED]


def _prepare_folder(cfg):
    try:
        os.makedirs(cfg.out, exist_ok=True)
        with replace_file(os.path.join(cfg.out, SAVED)) as temporary:
            parser.save(cfg, temporary, COMMAND)
    except OSError as error:
        raise failure_of(error, f"out={cfg.out} cannot be written: {explain(error)}") from None


def _write(cfg, plans, videos, problems):
    """Write all shards that are not there yet.

    Returns the number of clips in the folder, or in those of its part.
    """
    mine = Part.of(cfg.part)
    done_path = os.path.join(cfg.out, DONE)
    parts = [plans[i : i + cfg.clips_per_shard] for i in range(0, len(plans), cfg.clips_per_shard)]
    parts = {shard_name(n): part for n, part in enumerate(parts) if mine.has(n)}
    marks = {name: digest_plans(part, cfg) for name, part in parts.items()}
    done = _read_done(cfg.out)
    if mine.alone:
        for name in set(done) - set(marks):
            _remove(os.path.join(cfg.out, name))
    else:
        # A note of its own: others write at the same time. Whoever makes the whole reads all notes.
        done_path = os.path.join(cfg.out, f"pairs.done.{mine.first + 1}-of-{mine.count}.json")
    done = {
        name: entry
        for name, entry in done.items()
        if marks.get(name) == entry["digest"] and os.path.isfile(os.path.join(cfg.out, name))
    }
    if done:
        log.info(f"{len(done)} of {len(parts)} shards are there already")
    for name in set(marks) - set(done):
        _remove(os.path.join(cfg.out, name))
    todo = [(name, part) for name, part in parts.items() if name not in done]
    tasks = [
        (part, {c.path: videos[c.path] for p in part for c in p.crops}, Style.of(cfg))
        for _, part in todo
    ]
    answers = spread_isolated(cut_clips, tasks, cfg.workers)
    total = sum(len(part) for _, part in todo)
    with progress.bar(total, "clip", description="cutting", hidden=not todo) as bar:
        for (name, part), task, answer in zip(todo, tasks, answers, strict=True):
            if isinstance(answer, Died):
                answer = _again(task, answer)
            clips, failed = answer
            for path, reason in failed.items():
                problems.add(path, reason)
            if clips:
                write_shard(os.path.join(cfg.out, name), clips)
                done[name] = {"digest": marks[name] if not failed else "", "clips": len(clips)}
                _save_done(done_path, done)
            bar.update(len(part))
    return sum(entry["clips"] for entry in done.values())


def _again(task, died):
    """A second try, alone: memory that ran out is the likely reason."""
    log.info(f"{died}; trying again alone")
    answer = next(spread_isolated(cut_clips, [task], 1))
    if isinstance(answer, Died):
        _, videos, _ = task
        return [], dict.fromkeys(videos, str(answer))
    return answer


def _read_done(folder):
    """What all notes of a folder say of shards, the whole's and those of parts."""
    done = {}
    for path in sorted(glob.glob(os.path.join(glob.escape(folder), "pairs.done*.json"))):
        try:
            with open(path, encoding="utf-8") as file:
                done |= json.load(file)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path} cannot be read ({error}); delete it, and its shards are cut again"
            ) from None
    return done


def _save_done(path, done):
    write_file(path, json.dumps(done, indent=0, sort_keys=True))


def _remove(tar):
    """Delete a shard of this folder that an earlier plan made.

    As before a video was added or taken away.
    """
    for path in (tar, tar + ".index.npz"):
        if os.path.exists(path):
            os.remove(path)
