#!/usr/bin/env bash
# Sets up .venv if necessary, then runs the main job on the phantom decathlon. Arguments are passed to `metanas-med demo`.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
bash "$here/scripts/setup.sh"
exec "$here/.venv/bin/metanas-med" demo "$@"
