"""``python -m finetune serve``: the page, by gradio, for this machine alone."""

import contextlib
import html
import os
import shutil
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from data.find.finder import open_finder
from engine.config.parser import parse_keys
from engine.errors import Failure, UserError
from finetune.predict import open_predictors
from finetune.serve.config import ServeConfig, is_loopback
from finetune.serve.folder import PassingFolder
from finetune.serve.recover import Recoverer, Shown
from finetune.verb_config import PredictConfig

WAITING = 1  # that may wait while one is recovered
KEPT_S = 300  # longest that an upload lies there which nobody asks about
FRAME = (
    '<iframe title="The people of the file" sandbox="allow-scripts" srcdoc="{page}" '
    'style="width: 100%; height: 86vh; border: 0; border-radius: 6px; background: #fff"></iframe>'
)


def main(argv: Sequence[str]) -> int:
    """Run ``python -m finetune serve`` until Ctrl-C; returns the exit code."""
    config, _ = parse_keys(ServeConfig, argv, "finetune serve", 0)
    signal.signal(signal.SIGTERM, _interrupt)
    folder = PassingFolder()
    try:
        gradio = open_gradio(folder.path / "uploads")
        predictors = open_predictors(PredictConfig(run=config.run, device=config.device))
        for predictor in predictors.values():
            predictor.require_mesh("serve")
        finder = open_finder(masks=False, hands="hand" in predictors)
        recoverer = Recoverer(config, predictors, finder)
        blocks, address = launch(gradio, config, recoverer, folder)
        print(f"page: {address} (Ctrl-C ends)", flush=True)
        try:
            blocks.block_thread()
        finally:
            blocks.close()
    except KeyboardInterrupt:
        print("\nstopped; nothing is kept", flush=True)
    finally:
        folder.remove()
    return 0


def open_gradio(uploads: Path) -> ModuleType:
    """Return gradio, told to keep its files in a folder and to tell nobody that it runs.

    Raises:
        UserError: it is not installed.
    """
    # It reads these while it is imported.
    os.environ |= {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_TEMP_DIR": str(uploads),
        "GRADIO_RUN_HISTORY": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
    }
    try:
        import gradio
    except ImportError as error:
        raise UserError(
            f"serve needs gradio (pip install 'gradio>=6.2,<7'; docs/serve.md): {error}"
        ) from None
    return gradio


def make_blocks(
    gradio: ModuleType, config: ServeConfig, recoverer: Recoverer, folder: PassingFolder
) -> Any:
    """Return gradio's Blocks of the page."""
    limits = (
        f"A photograph (up to {config.megapixels:g} megapixels) or a clip (up to "
        f"{config.seconds:g} s), {config.upload_mb:g} MB at most. It stays on this machine and is "
        "removed when its people are shown."
    )

    def show(path: str | None) -> tuple[None, str]:
        if path is None:
            return None, ""
        try:
            return None, render_shown(recover_upload(recoverer, path, folder))
        except Failure as error:
            # Where it lay is nobody's business; what it was called is known.
            words = str(error).replace(path, Path(path).name)
            raise gradio.Error(words, duration=None, print_exception=False) from None

    # Uploads that nobody asks about are looked for as often as they may get old.
    with gradio.Blocks(
        title="counterpose", analytics_enabled=False, delete_cache=(KEPT_S, KEPT_S)
    ) as blocks:
        gradio.Markdown(f"## counterpose\n{limits}")
        upload = gradio.File(label="Photograph or clip", file_types=["image", "video"])
        shown = gradio.HTML(label="Its people")
        upload.upload(show, upload, [upload, shown], api_name=False, show_progress_on=shown)
    return blocks


def render_shown(shown: Shown) -> str:
    """Return the HTML of a result: links to its files, and its page in a frame of its own."""
    links = [
        f'<a download="{html.escape(name)}" href="{html.escape(url)}">{html.escape(name)}</a>'
        for name, url in shown.downloads
    ]
    frame = FRAME.format(page=html.escape(shown.page))
    return f"<p>Files: {', '.join(links)}</p>{frame}"


def recover_upload(recoverer: Recoverer, path: str, folder: PassingFolder) -> Shown:
    """Return what is shown of an upload, which is removed, as is all that was written on the way.

    Raises:
        Failure: as ``Recoverer.make_page``.
    """
    upload = Path(path)
    work = folder.path / "work"
    try:
        work.mkdir(exist_ok=True)
        return recoverer.make_page(upload, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        upload.unlink(missing_ok=True)
        # Files of equal bytes lie in one folder, and another may wait there.
        with contextlib.suppress(OSError):
            upload.parent.rmdir()


def launch(
    gradio: ModuleType, config: ServeConfig, recoverer: Recoverer, folder: PassingFolder
) -> tuple[Any, str]:
    """Return gradio's Blocks, which answer on threads of their own, and the page's URL.

    Raises:
        UserError: the port is taken.
    """
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    port = config.port or find_port(config.host)
    require_port(config.host, port)
    blocks = make_blocks(gradio, config, recoverer, folder)
    blocks.queue(max_size=WAITING, default_concurrency_limit=1, api_open=False)
    names = ["127.0.0.1", "localhost", "[::1]", config.host]
    # A web page that names this machine anew in its own domain gets no answer.
    guard = Middleware(TrustedHostMiddleware, allowed_hosts=names)
    guards = [guard] if is_loopback(config.host) else []
    blocks.launch(
        server_name=config.host,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        ssr_mode=False,
        run_history=False,
        footer_links=[],
        max_file_size=f"{config.upload_mb:g}mb" if config.upload_mb >= 1 else "1mb",
        theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        app_kwargs={"middleware": guards},
    )
    return blocks, f"http://{config.host}:{port}/"


def find_port(host: str) -> int:
    """Return a port that is free."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def require_port(host: str, port: int) -> None:
    """Say that a port is taken.

    Raises:
        UserError: it is, or the address is none of this machine's.
    """
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise UserError(
            f"port={port} of host={host} cannot be used: {error.strerror}; does another page run? "
            "port=0 takes any that is free"
        ) from None


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
