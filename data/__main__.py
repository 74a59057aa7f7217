"""``python -m data make|pairs|verify|...``: clips made, cut, checked, looked at and rewritten."""

from engine.cli import run
from engine.errors import UserError

USAGE = """usage: python -m data COMMAND ...
  make    CONFIG.yaml out=DIR [key=value ...]                made people -> shards
  pairs   CONFIG.yaml videos=DIR out=DIR [key=value ...]     videos -> shards
  labels  NAME out=DIR source=DIR [key=value ...]            labelled dataset -> shards
  index   DIR-or-TAR ...                                     what runs need to know of each shard, made beforehand
  verify  DIR-or-TAR ...                                     does every sample decode; exit code 1 where not
  stats   DIR-or-TAR ... [out=FILE.png] [key=value ...]      what is in the shards, and what the pair rules keep
  preview DIR-or-TAR ... [out=FILE.png] [key=value ...]      a contact sheet of pairs
  mixing  DIR-or-TAR ... [key=value ...]                     how well batches are mixed, beside a full shuffle
  shuffle DIR-or-TAR ... out=DIR [key=value ...]             the clips in one random order, in new shards
  merge   DIR-or-TAR ... out=DIR clips_per_shard=N           small shards joined
  split   DIR-or-TAR ... out=DIR clips_per_shard=N           large shards cut up
--help after any of them lists its keys."""


def main(argv):
    """Hand the arguments to the command that is named first; returns its exit code."""
    # Imported here because a spawned worker imports this module anew and needs little of it.
    command, rest = (argv[0], argv[1:]) if argv else ("--help", [])
    if command in ("--help", "-h"):
        print(USAGE)
        return 0
    if command == "make":
        from data.people.make import main as chosen
    elif command == "pairs":
        from data.sources.pairs import main as chosen
    elif command == "labels":
        from data.sources.label_shards import main as chosen
    elif command in ("index", "verify", "stats", "preview"):
        from data.tools import inspect

        chosen = getattr(inspect, command)
    elif command == "mixing":
        from data.tools.mixing import main as chosen
    elif command in ("shuffle", "merge", "split"):
        from data.tools import rewrite

        chosen = getattr(rewrite, command)
    else:
        names = [line.split()[0] for line in USAGE.splitlines()[1:-1]]
        raise UserError(f"'{command}' is none of {', '.join(names)}\n{USAGE}")
    return chosen(rest)


if __name__ == "__main__":
    run(main)
