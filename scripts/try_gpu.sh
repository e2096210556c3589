#!/usr/bin/env bash
# Tries this project on one GPU, without a network and without downloaded weights, and prints tables of what came out:
#   agreement   masks of stage 02 and replies of stage 06 on the GPU beside those on the CPU, with the tiny models
#   training    SFT and SimPO by ms-swift on the GPU, in float32 and bfloat16, beside the CPU in float32
#   speed       SAM ViT-H, GroundingDINO Swin-T and Qwen2-VL-7B with random weights: how fast, and how much memory
#
#   Hardware  one GPU of 80 GB, 32 GB of memory; with --small the CPU alone, where everything is tiny
#   Disk      17 GB in the temporary folder (TMPDIR) while Qwen2-VL-7B is trained; with --small next to nothing
#   Time      about seven minutes on an H100; with --small three to nine minutes on two cores
#
# Usage: scripts/try_gpu.sh [--small] [PART ...]          (default: all three parts)
#
# It fails if a part fails, or if float32 on the GPU departs from the CPU by more than scripts/try_gpu.py allows.
# CSP_PYTHON=/path/to/python uses that Python, with whatever packages it has, in place of the project's environment.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ "${1:-}" == "--help" || "${1:-}" == "-h" ]]; then
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"
    exit 0
fi
python="${CSP_PYTHON:-$(scripts/python.sh)}"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-4}" # on many cores more threads only slow the tiny models down
export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 TRANSFORMERS_OFFLINE=1
exec "$python" scripts/try_gpu.py "$@"
