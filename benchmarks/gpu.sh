#!/usr/bin/env bash
# All benchmarks on one GPU in under 10 minutes, into one Markdown file: what a step costs in float32, TF32 and bf16, compiled and
# not, with and without the fused optimiser, in time and memory; what gathering weights in bf16 changes; how long the first step
# compiles; the commands a user waits for. Needs the repository and its packages (torch 2.6 or newer) and nothing else: data is
# made. From anywhere:
#
#   bash benchmarks/gpu.sh [FILE.md]            PYTHON=... names the interpreter (default: .venv/bin/python, else python3)
#   SMALL=1 bash benchmarks/gpu.sh [FILE.md]    the same on a CPU with the smallest sizes, to see that everything runs
#
# A benchmark that fails or takes too long leaves what it printed and its exit code in the file; the others still run, and
# the script ends with 1.
set -u
cd "$(dirname "$0")/.."
out=${1:-gpu.md}
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
data=$(mktemp -d)
trap 'rm -rf "$data"' EXIT
bad=0

# section TITLE SECONDS ARGUMENTS...: run benchmarks/ARGUMENTS with a limit, its output below a heading. The limits add up to 590 s.
section() {
    local title=$1 limit=$2 began=$SECONDS code=0
    shift 2
    printf '\n## %s\n\n    python benchmarks/%s\n\n' "$title" "$*" >> "$out"
    timeout --kill-after=5 "$limit" "$python" benchmarks/"$@" >> "$out" 2> "$data/errors" || code=$?
    if [ "$code" -ne 0 ]; then
        bad=1
        printf '\nexit code %s after %s s (124: over its limit of %s s)\n\n' "$code" $((SECONDS - began)) "$limit" >> "$out"
        tail -n 5 "$data/errors" | sed 's/^/    /' >> "$out"
    fi
    printf '%s: %s s, exit code %s\n' "$title" $((SECONDS - began)) "$code"
}

printf '# Benchmarks\n\n%s, %s\n' "$(date '+%d %B %Y')" \
    "$(git describe --always --dirty 2> /dev/null || echo 'no git')" > "$out"
if [ -n "${SMALL:-}" ]; then
    section "A training step" 600 step.py device=cpu sizes=demo positions=rope rounds=1 batch=4
    section "Weights spread" 600 spread.py device=cpu size=demo rounds=1 batch=4
    section "Synthetic humans, CPU" 300 people.py device=cpu config=configs/data/people_body_easy.yaml clips=1 rounds=1 size=64
    section "From the command to the first step, checkpoints, fine-tuning, predict" 900 runs.py device=cpu clips=20 steps=8 \
        batch=8 data="$data"
    section "The loader" 600 loader.py clips=100 seconds=0.2 rounds=1 batch=8 data="$data/loader"
    section "The order of samples" 100 order.py clips=1e5 shards=100 ranks=8 batch=64 slots=20
    section "The cache" 100 cache.py megabytes=8 shards=2 rounds=1 folder="$data"
    exit $bad
fi
printf '\n%s\n' "$(nvidia-smi --query-gpu=name,driver_version,memory.total,power.limit --format=csv,noheader)" >> "$out"
section "A training step: float32, TF32, bf16, compiled; without each optimisation" 195 step.py device=cuda \
    sizes=tiny,small,base,large rounds=3 off=base
section "Weights spread: ddp, fsdp, bf16, compiled; the first step" 65 spread.py device=cuda size=base rounds=5
# The first to make synthetic humans builds the body model's files, for a minute.
section "Synthetic humans, GPU" 120 people.py device=cuda clips=20 rounds=3
section "Synthetic humans, one core" 30 people.py device=cpu clips=2 rounds=3
section "From the command to the first step, checkpoints, fine-tuning, predict" 110 runs.py device=cuda pretrain=body_vitb \
    finetune=body_vitb size=256 batch=128 data="$data"
section "The loader" 40 loader.py clips=500 seconds=1 rounds=2 data="$data/loader"
section "The order of samples" 15 order.py
section "The cache" 15 cache.py megabytes=200 rounds=2 folder="$data"
exit $bad
