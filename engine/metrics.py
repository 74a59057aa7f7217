"""Everything measured, written twice: JSON lines in the run's folder, always; wandb, if on."""

import json
import os
import secrets
import time
from pathlib import Path

from engine.errors import UserError


class Log:
    """``RUN/log.jsonl``, one object a logged step, and a wandb run that is the same across restarts.

    Args:
        run: the folder.  step: the step the run goes on from; later lines of an earlier life are cut off.
        wandb: "off", "offline" or "online".  name, config: shown by wandb.
    """

    def __init__(self, run, step, wandb, name, config):
        self.path = Path(run) / "log.jsonl"
        try:
            self._cut(step)
            self.file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - open for the run's life
        except OSError as error:
            raise UserError(f"{self.path} cannot be written: {error.strerror.lower()}") from None
        self.wandb = _wandb(run, wandb, name, config) if wandb != "off" else None

    def write(self, step, values, pictures=None):
        """One line at a step: plain numbers under "group/name" keys; pictures ({key: path of a PNG}) go to wandb alone."""
        line = {"step": step, "time": round(time.time(), 3), **values}
        try:
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()
        except OSError as error:
            raise UserError(f"{self.path} cannot be written: {error.strerror.lower()}") from None
        if self.wandb:
            import wandb

            shown = {k: wandb.Image(str(p)) for k, p in (pictures or {}).items()}
            self.wandb.log({**values, **shown}, step=step)

    def close(self):
        self.file.close()
        if self.wandb:
            self.wandb.finish()

    def _cut(self, step):
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except ValueError:
                break  # a line that a kill cut in two; all after it is later than the checkpoint
        temporary = self.path.with_suffix(".cut")
        temporary.write_text("".join(kept), encoding="utf-8")
        os.replace(temporary, self.path)


def read(run):
    """The lines of a run's log as dicts."""
    path = Path(run) / "log.jsonl"
    if not path.exists():
        raise UserError(f"{run} has no log.jsonl: it is no run's folder, or the run has not logged yet")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _wandb(run, mode, name, config):
    import wandb

    identity = Path(run) / "wandb_id.txt"
    if not identity.exists():
        identity.write_text(secrets.token_hex(4))
    return wandb.init(project="counterpose", name=name, id=identity.read_text(), resume="allow", mode=mode, dir=run,
                      config=config, settings=wandb.Settings(silent=True, console="off", x_disable_stats=True))
