#!/usr/bin/env bash
# Sets up .venv if necessary, then checks lint, types, import contracts and tests. Arguments are passed to pytest.
# The exit code is non-zero if any check fails.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh
bin="$PWD/.venv/bin"
export PATH="$bin:$PATH" PYTHONDONTWRITEBYTECODE=1 WANDB_MODE="${WANDB_MODE:-offline}" MPLBACKEND=Agg
# two processes with one thread each are faster than one process with two
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

failed=""
check() {
    local name=$1 start=$SECONDS
    shift
    if "$@"; then
        echo "== $name: ok, $((SECONDS - start)) s"
    else
        echo "== $name: FAILED, $((SECONDS - start)) s"
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
    # again as on a processor without AVX-512 and bfloat16 instructions
    check "tests capped at AVX2" env ONEDNN_MAX_CPU_ISA=AVX2 python -m pytest -q -n 2 tests/learner/test_darts.py tests/learner/test_optimizer.py \
        tests/learner/test_runtime.py tests/learner/test_features.py tests/space/test_merge.py tests/space/test_norm.py \
        tests/space/test_supernet.py tests/space/test_derived.py
fi
[ -z "$failed" ] || [ "$status" -ne 0 ] || status=1
exit "$status"
