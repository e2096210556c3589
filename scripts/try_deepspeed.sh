#!/usr/bin/env bash
# Test DeepSpeed, which is not among this project's packages: make an environment that also sees the project's own
# packages, build DeepSpeed in it, and run tests/training/test_deepspeed.py. It takes five minutes on two cores, no GPU.
#
# Usage: scripts/try_deepspeed.sh [FOLDER [VERSION]]
#
#   FOLDER    folder of the environment (default: .venv-deepspeed); it is kept and reused unchanged
#   VERSION   version of DeepSpeed (default: that of csp_utils/training/command.py)
#
# To train with DeepSpeed, run `uv pip install --no-build-isolation deepspeed==0.18.9` in the training environment, and
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
    site "$base" >"$(site "$folder/bin/python")/project.pth" # the project's packages, after the own ones
fi
# The build reads torch's version, so it must not be isolated. No operator is compiled or needed: the optimizer is
# torch's AdamW. --no-deps: none of the project's own packages may be installed a second time.
DS_BUILD_OPS=0 DS_ACCELERATOR=cpu "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
    "setuptools<81" wheel hjson ninja py-cpuinfo msgpack
DS_BUILD_OPS=0 DS_ACCELERATOR=cpu "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
    --no-build-isolation "$wanted"
export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
"$folder/bin/python" -m pytest tests/training/test_deepspeed.py -p no:nbval -v
