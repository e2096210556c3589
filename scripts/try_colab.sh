#!/usr/bin/env bash
# Test the notebooks' first cell in an environment that imitates Google Colab: Python 3.13, Colab's versions of the
# packages that the project uses (scripts/colab_preinstalled.txt: torch, numpy, transformers 5 ...), and a package
# google.colab that can be imported. It cannot imitate a GPU, Colab's machine image or its web page.
#
# Usage: scripts/try_colab.sh [FOLDER] [NOTEBOOK ...]
#
#   FOLDER     folder for the environment and a clone of this commit (8 GB; default: a new temporary folder). If it
#              already contains them, they are used unchanged; delete the folder for a clean test
#   NOTEBOOK   notebook to run completely afterwards, as if just opened (default: 01_extract 02_mask)
#
# It needs python3.13 on the PATH, git, and PyPI (or pip's configured index). It tests the committed state.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

if [[ "${1:-}" == "--help" || "${1:-}" == "-h" ]]; then
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"
    exit 0
fi
folder="${1:-$(mktemp -d)}"
notebooks=("${@:2}")
uv="$(dirname "$("$root/scripts/python.sh")")/uv"
mkdir -p "$folder"
folder="$(cd "$folder" && pwd)"
python="$folder/env/bin/python"
if [[ ! -e "$folder/env/made" ]]; then
    "$uv" venv --quiet --seed --clear --python 3.13 "$folder/env"
    "$uv" pip install --quiet --python "$python" -r "$root/scripts/colab_preinstalled.txt"
    packages="$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')"
    mkdir -p "$packages/google/colab"
    echo '"""Stands for the package of this name in Colab: it can be imported."""' > "$packages/google/colab/__init__.py"
    touch "$folder/env/made"
fi
# git clones this folder instead of the address in the cell.
address="$(sed -n 's/^Repository = "\(.*\)"/\1/p' "$root/pyproject.toml")"
export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0="url.file://$root.insteadOf" GIT_CONFIG_VALUE_0="$address"
export PATH="$folder/env/bin:$PATH" MPLBACKEND="module://matplotlib_inline.backend_inline" JUPYTER_PREFER_ENV_PATH=1
export PYDEVD_DISABLE_FILE_VALIDATION=1
unset PYTHONPATH VIRTUAL_ENV CONDA_PREFIX CSP_HEADLESS
exec "$python" "$root/scripts/try_colab.py" "$folder" "${notebooks[@]}"
