#!/usr/bin/env bash
# Run all tests of the project.
#
#   Hardware  two cores, no GPU
#   Time      30 to 45 min
#   Disk      0.5 GB
#
# Usage: ./run_tests.sh [unit | notebooks | e2e] [PYTEST OPTIONS]
#
#   ./run_tests.sh              all three, the last two beside each other
#   ./run_tests.sh unit         style (ruff, import-linter), then the unit tests, the slow ones last
#   ./run_tests.sh notebooks    notebooks 00 to 12 in order with their default parameters (nbval), into outputs/demo
#   ./run_tests.sh e2e          the smallest whole run (params/smoke.yaml), twice: the second has nothing to do
#
# The first call installs the environment, as ./run_all.sh does. The exit status is 0 if everything passed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

if [[ "${1:-}" == "--help" || "${1:-}" == "-h" ]]; then
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"
    exit 0
fi
parts="unit notebooks e2e"
case "${1:-}" in
    unit | notebooks | e2e) parts="$1"; shift ;;
    "" | -*) ;;
    *) echo "unknown part '$1'; parts are: unit, notebooks, e2e (see ./run_tests.sh --help)" >&2; exit 2 ;;
esac

python="$(scripts/python.sh)"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" CSP_HEADLESS=1 JUPYTER_PREFER_ENV_PATH=1
# Tests use local models only; no library may wait for a network.
export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 TRANSFORMERS_OFFLINE=1
summary=""
failed=0

# check NAME COMMAND...: run the command, record its time and whether it passed; go on if it failed.
check() {
    local name="$1" start=$SECONDS result=passed
    shift
    echo "== $name"
    "$@" || { result=FAILED; failed=1; }
    summary+="$(printf '%-32s %-7s %4d s' "$name" "$result" $((SECONDS - start)))"$'\n'
}

unit() {
    check "style" "$python" -m ruff check .
    check "layers of the package" "$(dirname "$python")/lint-imports" --no-cache
    check "sizes" "$python" scripts/sizes.py
    # Test modules run at the same time, one per core, without threads of their own. There are at most four, because each
    # needs 2 GB; -n 0 runs them one after the other. nbval's plugin loads slowly and collects no Python test.
    local pytest=(env OMP_NUM_THREADS=1 "$python" -m pytest -p no:nbval -n logical --maxprocesses 4 --dist loadfile)
    check "unit tests" "${pytest[@]}" -m "not slow" "$@"
    check "slow unit tests" "${pytest[@]}" -m slow --durations 40 --durations-min 5 "$@"
}

notebooks() {
    rm -rf outputs/demo
    check "notebooks with their defaults" "$python" -m pytest -p no:cacheprovider --nbval-lax \
        --nbval-cell-timeout=600 --nbval-kernel-name=python3 --nbval-kernel-startup-timeout=300 notebooks "$@"
}

nothing_to_do() {
    local said
    said="$(./run_all.sh params/smoke.yaml)" && echo "$said" && grep -q "nothing to do" <<<"$said"
}

e2e() {
    rm -rf outputs/smoke
    check "smallest whole run" ./run_all.sh params/smoke.yaml
    check "its second time: nothing to do" nothing_to_do
}

# Run the notebooks and the smallest whole run side by side: each needs one core for most of its time.
notebooks_beside_e2e() {
    local log child
    log="$(mktemp)"
    export OMP_NUM_THREADS=1
    set -m # the child gets a process group of its own, which can be ended as a whole
    (
        summary="" failed=0
        e2e "$@"
        printf '%s' "$summary" >"$log.summary"
        exit "$failed"
    ) >"$log" 2>&1 &
    child=$!
    set +m
    trap 'kill -TERM -- "-$child" 2>/dev/null; exit 130' INT TERM
    notebooks "$@"
    wait "$child" || failed=1
    trap - INT TERM
    cat "$log"
    summary+="$(cat "$log.summary")"$'\n'
    rm -f "$log" "$log.summary"
}

if [[ "$parts" == "unit notebooks e2e" ]]; then
    unit "$@"
    notebooks_beside_e2e "$@"
else
    for part in $parts; do
        "$part" "$@"
    done
fi
echo
echo "$summary"
if ((failed)); then
    echo "Some tests FAILED."
else
    echo "All tests passed."
fi
exit "$failed"
