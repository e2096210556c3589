#!/usr/bin/env bash
# Print the path of the Python to use: that of the active environment if it matches requirements.txt, else that of
# .venv, which is made if necessary (scripts/setup_env.py). Progress goes to stderr. It needs Python 3.11 to start.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

is_311() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1; }

seen=""
for python in "${VIRTUAL_ENV:-/nowhere}/bin/python" "${CONDA_PREFIX:-/nowhere}/bin/python" "$root/.venv/bin/python" \
    python3.11 python3 python; do
    command -v "$python" >/dev/null 2>&1 || continue
    if is_311 "$python"; then
        exec "$python" "$root/scripts/setup_env.py"
    fi
    seen="${seen:-$("$python" --version 2>&1 | tail -1 || true)}"
done
echo "Python 3.11 is needed and was not found (${seen:-no Python at all}); install it (apt install python3.11" \
    "python3.11-venv, or conda create -n csp python=3.11 and activate it) and run the same command again." >&2
exit 1
