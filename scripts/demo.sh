#!/usr/bin/env bash
# Sets up .venv if need be, then runs the main job on the phantom decathlon. Arguments go to `metanas-med demo`.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
bash "$here/scripts/setup.sh"
exec "$here/.venv/bin/metanas-med" demo "$@"
