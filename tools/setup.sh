#!/bin/sh
# Makes or updates .venv, as `make setup` does. An interrupted set-up continues.
#   PYTHON       the Python to use (3.10 or newer); default: the first one on PATH
#   TORCH_INDEX  address of a package index with the PyTorch builds to use
set -eu
cd "$(dirname "$0")/.."
fail() {
    echo "set-up: $1" >&2
    exit 1
}

# One set-up at a time; a pip that outlives its set-up holds the lock, too.
if [ -z "${SETUP_HAS_LOCK:-}" ] && command -v flock >/dev/null; then
    export SETUP_HAS_LOCK=yes
    status=0
    flock -n -E 75 constraints.txt sh tools/setup.sh || status=$?
    [ "$status" = 75 ] || exit "$status"
    echo "Another set-up is running here; waiting for it"
    exec flock constraints.txt sh tools/setup.sh
fi

extras=demo,docs,onnx,test,vad
state="$PWD [$extras] $(cat constraints.txt setup.cfg setup.py pyproject.toml | cksum)"
python=.venv/bin/python
if [ "$(cat .venv/setup.done 2>/dev/null)" = "$state" ] && "$python" -c "" 2>/dev/null; then
    echo "Set-up is up to date (.venv)."
    exit 0
fi

# The Python to start from.
can_set_up='import sys
if sys.version_info < (3, 10): sys.exit("is Python %d.%d" % sys.version_info[:2])
try:
    import ensurepip, venv
except ImportError:
    sys.exit("has no venv module (Debian, Ubuntu: sudo apt install python3-venv)")'
base="" reasons=""
candidates="python3 python3.13 python3.12 python3.11 python3.10"
[ -z "${PYTHON:-}" ] || candidates=
for candidate in ${PYTHON:+"$PYTHON"} $candidates; do
    command -v "$candidate" >/dev/null || continue
    if why=$("$candidate" -c "$can_set_up" 2>&1); then
        base=$candidate
        break
    fi
    case $why in
    pyenv:*) ;; # a shim of a version that is not installed
    *) reasons="$reasons
        $candidate $(echo "$why" | head -n 1)" ;;
    esac
done
[ -n "$base" ] || fail "Python 3.10 or newer is needed; ${PYTHON:-none on PATH} will not do.$reasons
        Install one, or name it: make setup PYTHON=/path/to/python3.12"

# .venv: kept when it is ours and works, else made again.
if [ -e .venv ] && [ ! -f .venv/pyvenv.cfg ] && [ -n "$(ls -A .venv)" ]; then
    fail "$PWD/.venv is not a Python environment; move it away"
fi
if [ "$(cat .venv/setup.here 2>/dev/null)" != "$PWD" ] || ! "$python" -m pip --version >/dev/null 2>&1; then
    echo "Making .venv with $("$base" --version)"
    "$base" -m venv --clear .venv || fail "no environment could be made (see above)"
    pwd >.venv/setup.here
else
    echo "Continuing with .venv ($("$python" --version))"
fi
rm -f .venv/setup.done
site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null) || gpu=""
if [ "$(uname -s)" = Linux ] && [ -z "$gpu${TORCH_INDEX:-}" ] && [ ! -d "$site/torch" ]; then
    echo "  No NVIDIA GPU here. PyTorch's standard build is for CUDA: 2.7 GB to download, 5.3 GB
  in .venv; its CPU build: 0.2 GB, 1.6 GB in .venv. Unless pip's settings already lead
  to the CPU build, stop here and name an index that has it (see pytorch.org, Get
  Started): make setup TORCH_INDEX=<address>"
fi

step() {
    title=$1 begin=$(date +%s)
    shift
    echo "\$ $*" >>.venv/setup.log
    if ! PYTHONUNBUFFERED=1 "$@" >.venv/step.log 2>&1 </dev/null; then
        cat .venv/step.log >>.venv/setup.log
        grep -E '^(WARNING|ERROR|error|[A-Za-z]*Error)' .venv/step.log | uniq | tail -n 4 >&2
        fail "$title failed. Correct that and run it again: it continues.
        Everything that was printed: .venv/setup.log"
    fi
    cat .venv/step.log >>.venv/setup.log
    echo "  $title: $(($(date +%s) - begin)) s"
}
install() {
    title=$1
    shift
    step "$title" "$python" -m pip install --disable-pip-version-check --progress-bar=off \
        -c constraints.txt "$@"
}
"$python" tools/repair.py packages "$site"
if [ -n "${TORCH_INDEX:-}" ]; then
    install "PyTorch from $TORCH_INDEX" --no-deps --index-url "$TORCH_INDEX" torch torchaudio
fi
install "PyTorch" torch setuptools
install "sb_margins and what it needs" --no-build-isolation -e ".[$extras]"
"$python" tools/repair.py torchaudio "$site"
step "a first import" "$python" -c "import torch, torchaudio, speechbrain, sb_margins"

build=$(sed -n "s/^__version__ = '\(.*\)'/\1/p" "$site/torch/version.py")
echo "$state" >.venv/setup.done
echo "Set-up is done: PyTorch $build, ${gpu:-no NVIDIA GPU: training runs on the CPU}."
case "$gpu $build" in
" "* | *+cu* | *+rocm*) ;;
*+cpu) echo "! A CPU build beside a GPU: make clean; make setup, without TORCH_INDEX and without
  pip settings that lead to CPU builds (pip config list)" ;;
esac
