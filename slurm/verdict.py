"""What follows from how the processes ended: plain functions of codes."""

from dataclasses import dataclass

# Exit codes of a training process (docs/cluster.md).
DONE, MEND, SAVED, DEAD, DIVERGED = 0, 2, 75, 76, 77


@dataclass
class Verdict:
    """``what``: done, requeue, again, or stop.  ``code``: the job's exit code.  ``first``: the failure that counts, or None."""

    what: str
    code: int
    first: dict | None = None


def judge(ends, asked):
    """The Verdict on processes that have all ended.

    Args:
        ends: [{"rank", "code", "reason", ...}, ...] in the order in which they were heard of.
        asked: a signal was passed on, so that whatever was cut short goes on in the next job.
    """
    bad = [end for end in ends if end["code"] not in (DONE, SAVED)]
    for code in (DIVERGED, MEND):
        for end in bad:
            if end["code"] == code:
                return Verdict("stop", code, end)
    if not bad and all(end["code"] == DONE for end in ends):
        return Verdict("done", DONE)
    if asked or not bad:
        return Verdict("requeue", SAVED)
    # A rank that only found its peer gone is not the first to blame, even if its word was quicker.
    first = next((end for end in bad if end["code"] != DEAD), bad[0])
    return Verdict("again", 1, first)


def tries(history, step):
    """Faults in a row since a checkpoint newer than the one at ``step`` was first gone on from.

    >>> fault = {"event": "fault", "step": 40}
    >>> [tries(h, 40) for h in ([fault, {"event": "start"}, fault], [{"event": "fault", "step": 20}, fault])]
    [2, 1]
    """
    count = 0
    for line in reversed(history):
        if line["event"] == "submitted":
            break
        if line["event"] in ("fault", "lost"):
            if line["step"] != step:
                break
            count += 1
    return count
