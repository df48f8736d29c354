#!/usr/bin/env bash
# Runs all checks that need a CUDA device; run it first on a new GPU. Arguments are passed to pytest.
# Without a CUDA device all checks are skipped (the last line counts them), and the exit code is 0.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh
bin="$PWD/.venv/bin"
export PATH="$bin:$PATH" PYTHONDONTWRITEBYTECODE=1 MPLBACKEND=Agg
python - <<'PYTHON'
import torch

if torch.cuda.is_available():
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}")
else:
    print(f"torch {torch.__version__} finds no CUDA device: all checks are skipped")
PYTHON
exec python -m pytest -q -rs -s -m gpu tests/gpu "$@"
