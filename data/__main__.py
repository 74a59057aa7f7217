"""``python -m data make|pairs|index|verify|stats|preview``: clips made, cut, checked and looked at."""

from engine.cli import run
from engine.errors import UserError

USAGE = """usage: python -m data COMMAND ...
  make    CONFIG.yaml out=DIR [key=value ...]                made people -> shards
  pairs   CONFIG.yaml videos=DIR out=DIR [key=value ...]     videos -> shards
  index   DIR-or-TAR ...                                     what runs need to know of each shard, made beforehand
  verify  DIR-or-TAR ...                                     does every sample decode; exit code 1 where not
  stats   DIR-or-TAR ... [out=FILE.png] [key=value ...]      what is in the shards, and what the pair rules keep
  preview DIR-or-TAR ... [out=FILE.png] [key=value ...]      a contact sheet of pairs
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
    elif command in ("index", "verify", "stats", "preview"):
        from data import inspect

        chosen = getattr(inspect, command)
    else:
        raise UserError(f"'{command}' is none of make, pairs, index, verify, stats, preview\n{USAGE}")
    return chosen(rest)


if __name__ == "__main__":
    run(main)
