"""The installed command ``counterpose``: the words of ``python -m``, from any folder.

It also has the completion of a shell.

It knows the packages by name alone and imports the table of the one that is typed.
"""

import contextlib
import importlib.metadata
from collections.abc import Sequence

from engine import cli, commands
from engine.errors import Failure, UserError

PROGRAM = "counterpose"
PACKAGES = ("data", "pretrain", "finetune", "engine", "slurm")
# What a user of meshes types without the package's name.
SHORT = {
    "predict": "finetune",
    "serve": "finetune",
    "fit": "finetune",
    "examine": "finetune",
    "weights": "finetune",
    "export": "finetune",
    "demo": "finetune",
    "bodies": "data",
}
COMPLETE = "complete"  # what the scripts below ask for; it is in no help
SHELLS = {
    "bash": """\
# In ~/.bashrc: source <(counterpose completion bash)
_counterpose() {
  local line=${COMP_LINE:0:COMP_POINT} IFS=$' \\t\\n' words current
  read -ra words <<< "$line"
  current=""
  [[ $line == *[[:space:]] ]] && words+=("") || current=${words[-1]}
  local IFS=$'\\n'
  COMPREPLY=($(counterpose complete "${words[@]:1}" 2>/dev/null))
  # Bash takes a word apart at its "=".
  [[ $current == *=* ]] && COMPREPLY=("${COMPREPLY[@]#"${current%%=*}="}")
  local i
  for i in "${!COMPREPLY[@]}"; do
    [[ ${COMPREPLY[i]} == *= ]] || COMPREPLY[i]+=" "
  done
}
complete -o default -o nospace -F _counterpose counterpose
""",
    "zsh": """\
# In ~/.zshrc, after compinit: source <(counterpose completion zsh)
_counterpose() {
  local -a found keys others
  found=("${(@f)$(counterpose complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
  found=(${found:#})
  if (( ! ${#found} )); then
    compset -P '*='
    _files
    return
  fi
  keys=(${(M)found:#*=})
  others=(${found:#*=})
  (( ${#keys} )) && compadd -S '' -- $keys
  (( ${#others} )) && compadd -- $others
}
compdef _counterpose counterpose
""",
    "fish": """\
# In ~/.config/fish/completions/counterpose.fish
function __counterpose
  set -l words (commandline -opc)
  counterpose complete $words[2..] "$(commandline -ct)" 2>/dev/null
end
complete -c counterpose -a '(__counterpose)'
""",
}
HELP = f"""\
usage: {PROGRAM} PACKAGE VERB ...
Pre-train a vision transformer on pairs of images of one person, and recover meshes with it.

  data      make shards of clips, of synthetic humans or from videos, and check them
  pretrain  pre-train an encoder; probe and export it
  finetune  fine-tune an encoder for meshes; evaluate it, predict with it
  engine    watch runs: a page of curves, numbers and images
  slurm     send any of these to a cluster, and look after it
  predict   short for finetune predict: the meshes of the people in images
  serve     short for finetune serve: a local page where one drops a photograph or clip
  fit       short for finetune fit: bodies fitted to keypoints, as labels to learn from
  examine   short for finetune examine: where a network fails on synthetic humans
  weights   short for finetune weights: those that ship, listed, shown, checked, pushed to a hub
  export    short for finetune export: a network as a file for other programs
  bodies    short for data bodies: body models, listed, shown, converted to one another
  demo      short for finetune demo: the whole path on synthetic humans

  {PROGRAM} PACKAGE --help        the verbs of a package
  {PROGRAM} PACKAGE VERB --help   the keys of a verb
  {PROGRAM} completion SHELL      completion for {", ".join(SHELLS)}
  {PROGRAM} --version

example:
  {PROGRAM} predict photo.jpg"""


def main(argv: Sequence[str]) -> int:
    """Runs the command that the words name; returns its exit code.

    Raises:
        UserError: no such package or shell; what the command raises.
    """
    first, *rest = argv or ["--help"]
    if first in ("--help", "-h", "help"):
        print(HELP)
        return 0
    if first == "--version":
        print(f"{PROGRAM} {find_version()}")
        return 0
    if first == "completion":
        print(_find_script(rest), end="")
        return 0
    if first == COMPLETE:
        for word in complete(rest):
            print(word)
        return 0
    if first in SHORT:
        return commands.run_package(_load_package(SHORT[first]), argv, PROGRAM)
    if first not in PACKAGES:
        raise UserError(_explain_unknown(first))
    return commands.run_package(_load_package(first), rest, PROGRAM)


def find_version() -> str:
    """Returns the version that is installed."""
    try:
        return importlib.metadata.version(PROGRAM)
    except importlib.metadata.PackageNotFoundError:
        return "of a checkout that is not installed"


def _load_package(name: str) -> commands.Package:
    return commands.load_name(f"{name}.__main__:PACKAGE")


def _explain_unknown(word: str) -> str:
    """Returns what to type instead of a word that names no package."""
    for name in PACKAGES:
        names = [verb.name for verb in _load_package(name).verbs]
        if word in names:
            return f"'{word}' is a verb of {name}: write {PROGRAM} {name} {word}"
    known = (*PACKAGES, *SHORT, "completion")
    hint = commands.closest(word, known) or f": {', '.join(known)};"
    return f"'{word}' is not a package of {PROGRAM}{hint} {PROGRAM} --help says what they do"


def _find_script(words: Sequence[str]) -> str:
    if len(words) == 1 and words[0] in SHELLS:
        return SHELLS[words[0]]
    raise UserError(f"{PROGRAM} completion takes one of {', '.join(SHELLS)}")


def complete(words: Sequence[str]) -> list[str]:
    """Returns what the last of the words may become; nothing where it may be a file.

    Keys end with "=". What cannot be completed is no error: the shell then offers files.
    """
    *before, current = words or [""]
    with contextlib.suppress(Failure):
        found = _list_candidates(before, current)
        return [word for word in found if word.startswith(current)]
    return []


def _list_candidates(before: list[str], current: str) -> list[str]:
    if not before:
        return [*PACKAGES, *SHORT, "completion", "--help", "--version"]
    if before[0] == "completion":
        return list(SHELLS)
    if before[0] in SHORT:
        before = [SHORT[before[0]], *before]
    if before[0] not in PACKAGES:
        return []
    package, typed = _load_package(before[0]), before[1:]
    verb = commands.find_verb(package, typed)
    if verb is None:
        return _next_words(package, typed)
    return commands.list_words(package, verb, typed[len(verb.name.split()) :], current)


def _next_words(package: commands.Package, typed: list[str]) -> list[str]:
    """Returns the next words of the verbs that begin with those typed."""
    split = [verb.name.split() for verb in package.verbs]
    fitting = [words for words in split if words[: len(typed)] == typed]
    return list(dict.fromkeys(words[len(typed)] for words in fitting))


def run_main() -> None:
    """Runs the console script; leaves with its exit code."""
    cli.run(main)


if __name__ == "__main__":
    run_main()
