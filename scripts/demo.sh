#!/usr/bin/env bash
# Sets up .venv where it is missing, then runs the demo on phantom organs. Arguments go to `metanas-med demo`.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
bash "$here/scripts/setup.sh"
exec "$here/.venv/bin/metanas-med" demo "$@"
