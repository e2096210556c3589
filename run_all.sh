#!/usr/bin/env bash
# The whole experiment with one command.
#
#   Hardware  two cores and 8 GB of memory for the default; no GPU (one is used if it is there)
#   Time      13 to 17 min, 1 of them to install
#   Disk      6 GB for the environment, 0.2 GB for the run
#   Network   PyPI (or the index that pip is configured for), for the environment only
#
# docs/times.md has the figures of other runs.
#
# Usage: ./run_all.sh [PARAMS_FILE] [SNAKEMAKE OPTIONS]
#
#   ./run_all.sh                         the tiny world (params/tiny.yaml); ends with outputs/tiny/report.html
#   ./run_all.sh params/mine.yaml        other parameters; what is up to date is not run again (or only: mine)
#   ./run_all.sh params/mine.yaml --plan says what it needs: downloads, rows, GPU hours, disk, and what is missing here
#   ./run_all.sh params/mine.yaml -n     only shows what would run, and why (--dry-run)
#   ./run_all.sh params/mine.yaml --forcerun notebook_06_eval    runs that notebook again, and what follows from it
#   ./run_all.sh --version               the version and the commit
#   ./run_all.sh --help                  this text
#
# Results go to outputs/<run>/, where <run> is named in the params file. A run that is stopped with Ctrl-C, or by a
# failure, leaves no incomplete file: the same command continues it. If the run is certain to fail here (too little disk,
# no GPU for large models), it stops before anything is downloaded, unless --anyway is given. All other options are
# Snakemake's own (--cores N, ...).
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

for argument in "$@"; do
    if [[ "$argument" == "--help" || "$argument" == "-h" ]]; then
        sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"
        exit 0
    fi
done

python="$("$here/scripts/python.sh")"
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" -m csp_utils.pipeline.run "$@"
