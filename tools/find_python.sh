#!/bin/sh
# Prints the first Python that can make the environment: 3.10 or newer, with venv.
# Usage: find_python.sh [PYTHON]     (with PYTHON: that one or none)
probe='import sys
if sys.version_info < (3, 10): sys.exit("is Python " + sys.version.split()[0])
try:
    import venv, ensurepip
except ImportError:
    sys.exit("has no venv module (on Debian and Ubuntu: sudo apt install python%d.%d-venv)" % sys.version_info[:2])'

if [ -z "${1:-}" ]; then
    set -- python3 python3.13 python3.12 python3.11 python3.10 python
    named=""
else
    set -- "$1"
    named=yes
fi
reasons=""
for candidate; do
    if ! command -v "$candidate" >/dev/null 2>&1; then
        [ -n "$named" ] && reasons=" $candidate: no such program."
    elif why=$("$candidate" -c "$probe" 2>&1); then
        command -v "$candidate"
        exit 0
    else
        why=$(printf '%s' "$why" | head -n 1)
        case $named$why in
        "pyenv: "*) ;; # a shim of a version that is not there
        *) reasons="$reasons $candidate $why." ;;
        esac
    fi
done
echo "set-up: Python 3.10 or newer is needed, with its venv module.${reasons:- None was found.}" >&2
echo "        Install one, or name it: make setup PYTHON=/path/to/python3.12" >&2
exit 1
