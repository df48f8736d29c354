#!/usr/bin/env bash
# Creates .venv in this checkout with the package (editable), its pinned dependencies, the test tools and learn2learn.
# Requires Python >= 3.11 with pip, and a C compiler for learn2learn only. Returns quickly if everything is installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
python=.venv/bin/python
stamp=.venv/metanas-setup
log=.venv/setup.log

hash_bytes() { if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi; }
have_compiler() { command -v "${CC:-cc}" >/dev/null || command -v gcc >/dev/null || command -v clang >/dev/null; }
say() { printf 'setup: %s\n' "$*"; }

# the hash includes the folder, because the scripts of a moved .venv point to its old place
wanted=$({ cat pyproject.toml constraints.txt scripts/setup.sh; printf '%s' "$root"; } | hash_bytes | cut -d' ' -f1)
if [ -f "$stamp" ] && "$python" -c '' 2>/dev/null; then
    { read -r done_hash && read -r learn2learn; } <"$stamp" || true
    if [ "${done_hash:-}" = "$wanted" ]; then
        if [ "${learn2learn:-}" = no-compiler ] && have_compiler; then
            say "found a C compiler; trying to install learn2learn again"
        else
            [ "${learn2learn:-}" = yes ] || say "learn2learn is not installed (${learn2learn:-unknown}); its tests are skipped. Remove $stamp to try again."
            exit 0
        fi
    fi
fi

started=$SECONDS
find_python() {
    local name
    for name in python3.13 python3.12 python3.11 python3 python; do
        # run it, because a version manager's shim may exist without the version itself
        if "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s' "$name"
            return 0
        fi
    done
    echo "setup: no Python >= 3.11 with the venv module found (on Debian: apt-get install python3 python3-venv)" >&2
    return 1
}

if ! "$python" -m pip --version >/dev/null 2>&1; then
    chosen=$(find_python)
    say "creating .venv with $("$chosen" --version)"
    "$chosen" -m venv --clear .venv
fi
: >"$log"

# a relative name, because pip splits this variable at spaces; it also applies to isolated builds
export PIP_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1
pip_install() { "$python" -m pip install --quiet --no-input "$@" >>"$log" 2>&1; }
must() { "$@" || failed; }
failed() {
    tail -n 25 "$log" >&2
    if grep -q 'No space left on device' "$log"; then
        echo "setup: the disk is full ($(df -Pk . | awk 'NR == 2 { printf "%d MB left", $4 / 1024 }')). An installation takes about 6.5 GB where" >&2
        echo "setup: torch includes CUDA (Linux on x86-64), else 1.5 GB. Free some space, remove $root/.venv and run this again." >&2
    fi
    echo "setup: failed; see pip's full output in $root/$log" >&2
    exit 1
}

say "installing the pinned dependencies (1 to 5 minutes on a new machine)"
must pip_install setuptools wheel
must pip_install --no-build-isolation --editable ".[dev,formats,dicom,onnx,bundle]"

learn2learn=yes
if ! "$python" -c 'import importlib.metadata as m, sys; sys.exit(m.version("learn2learn") != "0.2.0")' 2>/dev/null; then
    say "installing learn2learn (about 30 s)"
    if ! have_compiler; then
        learn2learn=no-compiler
    elif ! pip_install gym==0.26.2 torchvision requests tqdm; then
        learn2learn=dependencies-failed
    # build_ext makes its setup.py compile the .pyx files again: the shipped C code does not compile on Python >= 3.11
    elif ! pip_install --use-pep517 --no-deps --config-settings="--build-option=build_ext" learn2learn==0.2.0; then
        learn2learn=build-failed
    fi
fi
if [ "$learn2learn" = yes ] && ! "$python" -W ignore -c 'import learn2learn' >>"$log" 2>&1; then
    learn2learn=import-failed
fi
# its wheel also contains a top-level package `tests`, which would hide ours
site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
[ ! -d "$site/tests/integration" ] || rm -r "$site/tests"
if [ "$learn2learn" != yes ]; then
    echo "setup: WARNING: learn2learn is not installed ($learn2learn, see $root/$log): the MAML family is unavailable and its tests are skipped." >&2
    echo "setup:          The main job works without it. To install it, you need a C compiler and Python's headers." >&2
fi

printf '%s\n%s\n' "$wanted" "$learn2learn" >"$stamp.new"
mv "$stamp.new" "$stamp"
say "done in $((SECONDS - started)) s"
