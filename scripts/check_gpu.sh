#!/usr/bin/env bash
# All checks that need a CUDA device: what is there, the tests marked gpu, and the demo on the GPU. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh
bin="$PWD/.venv/bin"
if ! "$bin/python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "check_gpu: torch finds no CUDA device here; nothing was checked" >&2
    exit 1
fi
"$bin/metanas-med" doctor
"$bin/python" -m pytest -q -m gpu "$@"
"$bin/metanas-med" demo --out runs/demo_gpu --device cuda
