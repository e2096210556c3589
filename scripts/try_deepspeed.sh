#!/usr/bin/env bash
# Tries DeepSpeed, which is not among this project's packages: makes an environment beside the project's own, which it
# sees, builds DeepSpeed in it, and runs tests/training/test_deepspeed.py there. Five minutes on two cores, without a GPU.
#
# Usage: scripts/try_deepspeed.sh [FOLDER [VERSION]]
#
#   FOLDER    where the environment goes (default: .venv-deepspeed); it is kept, and used as it is the next time
#   VERSION   of DeepSpeed (default: the one of csp_utils/training/command.py)
#
# To train with it: uv pip install --no-build-isolation deepspeed==0.18.9 into the environment that you train in, and
# set `deepspeed: zero2` or `zero3`, and `processes`, for notebooks 04 and 05.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ "${1:-}" == "--help" || "${1:-}" == "-h" ]]; then
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"
    exit 0
fi
base="$(scripts/python.sh)"
folder="${1:-.venv-deepspeed}"
wanted="$("$base" -c 'from csp_utils.training.command import DEEPSPEED; print(DEEPSPEED)')"
wanted="deepspeed==${2:-${wanted#*==}}"

site() { "$1" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])'; }
if [[ ! -x "$folder/bin/python" ]]; then
    "$base" -m venv "$folder"
    site "$base" >"$(site "$folder/bin/python")/project.pth" # its packages, after this environment's own
fi
# The build asks torch for its version, hence without isolation; no operator is compiled, and none is needed: the
# optimizer is torch's AdamW. --no-deps: nothing of the project's own packages may be installed a second time.
DS_BUILD_OPS=0 DS_ACCELERATOR=cpu "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
    "setuptools<81" wheel hjson ninja py-cpuinfo msgpack
DS_BUILD_OPS=0 DS_ACCELERATOR=cpu "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
    --no-build-isolation "$wanted"
export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
"$folder/bin/python" -m pytest tests/training/test_deepspeed.py -p no:nbval -v
