#!/usr/bin/env bash
# Sets up .venv if need be, then lint, types, import contract and tests. Arguments go to pytest. Non-zero if anything failed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh
bin="$PWD/.venv/bin"
export PATH="$bin:$PATH" PYTHONDONTWRITEBYTECODE=1 WANDB_MODE="${WANDB_MODE:-offline}" MPLBACKEND=Agg
# two processes of one thread each are faster than one of two
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

failed=""
check() {
    local name=$1 begun=$SECONDS
    shift
    if "$@"; then
        echo "== $name: ok, $((SECONDS - begun)) s"
    else
        echo "== $name: FAILED, $((SECONDS - begun)) s"
        failed="$failed $name"
    fi
}
check lint python -m ruff check .
check types env PYRIGHT_PYTHON_IGNORE_WARNINGS=1 pyright --warnings
check imports lint-imports
[ -z "$failed" ] || echo "== failed so far:$failed"

status=0
python -m pytest -n 2 --durations=10 "$@" || status=$?
if [ $# -eq 0 ]; then
    # once more as a processor without AVX-512 and bfloat16 instructions runs it
    check "tests capped at AVX2" env ONEDNN_MAX_CPU_ISA=AVX2 python -m pytest -q -n 2 tests/learner tests/space
fi
[ -z "$failed" ] || [ "$status" -ne 0 ] || status=1
exit "$status"
