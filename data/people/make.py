"""``python -m data make``: clips of synthetic humans, written as shards by any number of processes.

And scenes of several (kind=scene), whose frames lie in shards as data/format/frame.py says.

Shard k holds clips k * clips_per_shard onwards and is made by one process, so its bytes depend on
the recipe alone.
"""

import multiprocessing
import os
import queue
import signal
import sys
import traceback
from collections.abc import Sequence

from data.bodies.warp_init import report_cache_errors, start_warp
from data.format.index import read_index
from data.format.shards import shard_name, write_samples
from data.people.backgrounds import mark_photos
from data.people.config import NOT_RECIPE, PeopleConfig, population
from data.people.recorded.folder import mark_recording, mark_recordings
from data.tools.cleanup import clear_leftovers
from data.tools.work_split import Part
from engine.config.parser import flat, parse, save
from engine.distributed import hardware
from engine.errors import Failure, UserError, explain, failure_of
from engine.logging import progress
from engine.logging.console import follow_console
from engine.run.files import replace_file

COMMAND = "data make"
RECIPE = "made.yaml"
# What is noted of files of the user's own, whose places do not count: by the key that names them.
MARKS = {
    "domain.backgrounds": mark_photos,
    "domain.recorded": mark_recordings,
    "motion": mark_recording,
}


def main(argv: Sequence[str]) -> int:
    """Make what is missing of OUT; returns the exit code.

    Raises:
        UserError: a bad key, a folder of another recipe or that cannot be written, a full disk, no
            such device.
    """
    config = parse(PeopleConfig, argv, command=COMMAND)
    mark_folders(config)
    device = choose_device(config.device)
    claim_folder(config)
    todo = list_unfinished(config)
    total = sum(stop - start for _, start, stop in todo)
    if not todo:
        print(
            f"{config.out} already holds these {config.clips} clips"
            + (f", of part={config.part}" if config.part else "")
        )
        return 0
    os.environ["OMP_NUM_THREADS"] = "1"  # read by the workers' libraries when they start
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        with progress.bar(total, "clip") as bar:
            if config.workers == 1 or len(todo) == 1:
                _make_shards(config, device, todo, bar.update)
            else:
                _run_workers(config, device, todo, bar.update)
    finally:
        signal.signal(signal.SIGTERM, before)
    clips, images = ("scenes", "frames") if config.kind == "scene" else ("clips", "crops")
    each = f"{total} {clips} of {config.images_per_clip} {images}"
    print(f"made {each} in {len(todo)} shards: {config.out}")
    return 0


def choose_device(wanted: str) -> str:
    """Return "cpu" or "cuda" for a config's device.

    Raises:
        UserError: cuda is asked for where torch or Warp finds none.
    """
    if wanted == "cpu":
        return "cpu"
    import torch
    import warp

    start_warp()
    found = torch.cuda.is_available() and warp.is_cuda_available()
    if not found:
        hardware.refuse_broken_gpu(wanted)
    if wanted == "cuda" and not found:
        raise UserError(
            "device=cuda, but this machine has no CUDA device that torch and Warp can use; "
            "device=cpu makes "
            "the same kind of clips"
        )
    return "cuda" if found else "cpu"


def mark_folders(config: PeopleConfig) -> None:
    """Note in the config what its photographs and recorded motions hold.

    Raises:
        UserError: there is no such folder, or it holds nothing that can be read; it is not what
            the config says.
    """
    domain = config.domain
    photos, recorded = domain.backgrounds, domain.recorded
    domain.backgrounds_mark = _mark("domain.backgrounds", photos, domain.backgrounds_mark)
    domain.recorded_mark = _mark("domain.recorded", recorded, domain.recorded_mark)
    config.motion_mark = _mark("motion", config.motion, config.motion_mark)


def _mark(name: str, folder: str | None, stated: str) -> str:
    if folder is None:
        return stated
    mark = MARKS[name](folder)
    if stated not in ("", mark):
        raise UserError(
            f"{name}={folder} holds {mark}, and {name}_mark={stated} is that of other files"
        )
    return mark


def claim_folder(config: PeopleConfig) -> None:
    """Make the folder and note the recipe.

    Refuses a folder of another recipe and clears what a killed command left.
    """
    path = os.path.join(config.out, RECIPE)
    try:
        os.makedirs(config.out, exist_ok=True)
        held = sorted(name for name in os.listdir(config.out) if name != RECIPE)
        others = [name for name in held if ".writing-" not in name]
        if os.path.exists(path) and held:  # a try that wrote nothing claims nothing
            _compare(config, parse(PeopleConfig, [path], command=COMMAND), path)
        elif others:
            raise UserError(
                f"out={config.out} holds {others[0]}, which this command did not make (there is no "
                f"{RECIPE}); "
                "name another folder"
            )
        part = Part.of(config.part)
        shards = range(-(-config.clips // config.clips_per_shard))
        clear_leftovers(
            config.out, ["*"] if part.alone else [shard_name(n) for n in shards if part.has(n)]
        )
        with replace_file(path) as temporary:
            save(config, temporary, COMMAND)
    except OSError as error:
        raise failure_of(error, f"out={config.out} cannot be written: {explain(error)}") from None


def list_unfinished(config: PeopleConfig) -> list[tuple[int, int, int]]:
    """Return [(shard number, first clip, end), ...] that OUT lacks.

    Or that it has with fewer clips than are wanted now.

    Raises:
        UserError: something is missing of a folder that an older generator began, whose people had
            other random numbers.
    """
    todo, there, part = [], [], Part.of(config.part)
    for number, start in enumerate(range(0, config.clips, config.clips_per_shard)):
        if not part.has(number):
            continue
        stop = min(start + config.clips_per_shard, config.clips)
        path = os.path.join(config.out, shard_name(number))
        index = read_index(path) if os.path.exists(path) else None
        if index is None or len(index) < (stop - start) * config.samples_per_clip:
            todo.append((number, start, stop))
        if index is not None:
            there.append((path, str(index.keys[0])))
    for path, name in there if todo else ():
        if not name.startswith(population(config) + "-"):
            raise UserError(
                f"out={config.out}: {path} holds {name}, which another version of the generator "
                f"made; this one "
                f"names its people {population(config)}-0 and so on, and would make others: name "
                f"another folder"
            )
    return todo


def _compare(config, made, path):
    mine, theirs = flat(config), flat(made)
    for name in MARKS:
        mark, made_mark = mine[f"{name}_mark"], theirs[f"{name}_mark"]
        if mark and made_mark and mark != made_mark:
            raise UserError(
                f"{name}={mine[name]} holds other files ({mark}) than when the "
                f"clips in {config.out} were made ({made_mark}, {path}); name another folder with "
                f"out="
            )
    for name in mine:
        if name not in NOT_RECIPE and mine[name] != theirs[name]:
            raise UserError(
                f"{name}={mine[name]} here, but the clips in {config.out} were made with "
                f"{name}={theirs[name]} "
                f"({path}); name another folder with out=, or set {name} as it was"
            )


def _leave(number, frame):
    """Turn SIGTERM into an exit that runs the clean-up of half-written files."""
    sys.exit(128 + number)


def _make_shards(config, device, todo, done):
    # torch, Warp and the body model: seconds to import
    if config.kind == "scene":
        from data.people.scene_maker import SceneMaker as Maker
    else:
        from data.people.maker import ClipMaker as Maker

    maker = Maker(config, device)

    def samples(start, stop):
        for index in range(start, stop):
            yield from maker.samples(index)
            done()

    for number, start, stop in todo:
        write_samples(os.path.join(config.out, shard_name(number)), samples(start, stop))


def _run_workers(config, device, todo, done):
    """Make shards in several processes.

    Not data.tools.process_pool, whose processes answer once a piece: here a process builds its body
    model and kernels once for all its shards, and reports each clip, of which a shard has
    hundreds.
    """
    _prepare(device)
    context = multiprocessing.get_context("spawn")
    tasks, reports = context.Queue(), context.Queue()
    count = min(config.workers, len(todo))
    for task in [*todo, *[None] * count]:
        tasks.put(task)
    workers = [
        context.Process(target=_work, args=(config, device, tasks, reports), daemon=True)
        for _ in range(count)
    ]
    try:
        for worker in workers:
            worker.start()
        _follow(workers, reports, done)
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.terminate()
        for worker in workers:
            if worker.pid is not None:
                worker.join()


def _follow(workers, reports, done):
    """Count clips until all workers have reported their end; raises what stopped one."""
    left = len(workers)
    while left:
        try:
            what, text = reports.get(timeout=1)
        except queue.Empty:
            dead = [w for w in workers if w.exitcode not in (None, 0)]
            if dead:
                raise UserError(
                    f"a worker of data make ended with exit code {dead[0].exitcode} and no "
                    f"message; a negative "
                    "code is a signal, -9 often means that memory ran out: use fewer workers="
                ) from None
            continue
        if what == "clip":
            done()
        elif what == "end":
            left -= 1
        elif what == "user error":
            raise UserError(text)
        else:
            raise RuntimeError(f"a worker of data make failed:\n{text}")


def _work(config, device, tasks, reports):
    """A worker: shards from ``tasks`` until None; tells ``reports`` of each clip."""
    follow_console()
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches the whole group; the parent ends the workers in order
    signal.signal(signal.SIGTERM, _leave)
    parent = multiprocessing.parent_process()

    def done():
        if parent is not None and not parent.is_alive():
            sys.exit(1)
        reports.put(("clip", ""))

    try:
        _make_shards(config, device, iter(tasks.get, None), done)
        reports.put(("end", ""))
    except Failure as error:
        reports.put(("user error", str(error)))
    except Exception:
        reports.put(("error", traceback.format_exc()))


def _prepare(device):
    """Build caches and compile kernels once, before the workers would all do it."""
    import warp

    from data.bodies.anny_body import AnnyBody
    from data.people import kernels_layers, kernels_light, kernels_mesh, kernels_shade, template

    template.load_template(AnnyBody(clothing=True))
    with report_cache_errors():
        for module in (kernels_mesh, kernels_light, kernels_shade, kernels_layers):
            warp.load_module(module, device=device)
