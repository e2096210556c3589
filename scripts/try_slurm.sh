#!/usr/bin/env bash
# Test --profile slurm on a real Slurm of one node, which is installed, started, used and removed again.
#
#   Needs     root on a Debian 12 machine or container that may be changed and that has no Slurm; two cores, 8 GB of
#             memory; Debian's package index and PyPI, or their mirrors. No GPU: two device files imitate GPUs.
#   Time      about 45 minutes on two busy cores
#
# Usage: scripts/try_slurm.sh [PARAMS_FILE]          (default params/smoke.yaml, the smallest whole run)
#
# It checks the following, and stops at the first check that fails:
#   1. two jobs with one GPU each at the same time get different ones in CUDA_VISIBLE_DEVICES; a job without, none
#   2. the run of the params file as Slurm jobs writes the same files as the local run, byte by byte (except times)
#   3. Slurm's message about a job that it refuses is printed; a job that is ended with scancel stops the run, and the
#      same command resumes it
#   4. Ctrl-C leaves no job in the queue and no incomplete file, and the same command resumes the run
#   5. after kill -9 the running job goes on to its end; until then the same command refuses to start, then it resumes
# It works in copies of the project in a temporary folder, and does not touch outputs/. KEEP=1 keeps that folder and the
# packages. It is not part of the tests, because those must not need root.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root="$PWD"
params="${1:-params/smoke.yaml}"

die() { echo "try_slurm: $*" >&2; exit 1; }
say() { printf '\n== %s  (%d:%02d)\n' "$*" $((SECONDS / 60)) $((SECONDS % 60)); }

if [[ "$params" == "--help" || "$params" == "-h" ]]; then
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$root/scripts/try_slurm.sh"
    exit 0
fi
((EUID == 0)) || die "it installs packages and starts daemons, so it must run as root, best in a container."
command -v apt-get >/dev/null || die "apt-get is not here; this script knows Debian's packages only."
[[ ! -e /etc/slurm/slurm.conf ]] || die "/etc/slurm/slurm.conf is there: this machine has a Slurm, and is left alone."
[[ -f "$params" ]] || die "the params file $params does not exist."
python="$(scripts/python.sh)"
"$python" -c "import snakemake_executor_plugin_slurm" || die "snakemake-executor-plugin-slurm is missing in $python."

work="$(mktemp -d /tmp/try_slurm.XXXXXX)"
chmod 755 "$work"
packages() { dpkg-query -W -f '${db:Status-Status} ${Package}\n' | sed -n 's/^installed //p' | sort; }
packages >"$work/packages.before"

finish() {
    local status=$?
    trap - EXIT
    set +e
    cd "$root"
    for pid in $(jobs -p); do
        kill "$pid" && wait "$pid" # a run that was under way when a check failed; it cancels its jobs
    done 2>/dev/null
    for each in /proc/[0-9]*; do # the Snakemake that step 5 left running
        [[ "$(readlink "$each/cwd")" == "$work/slurm" ]] && kill -KILL "${each#/proc/}"
    done 2>/dev/null
    if [[ -e "$work/slurmctld.pid" ]]; then
        scancel --me 2>/dev/null
        sleep 2
    fi
    for daemon in slurmd slurmctld munged; do
        pid="$(cat "$work/$daemon.pid" 2>/dev/null)" || continue
        kill "$pid" && tail --pid="$pid" -f /dev/null
    done
    rm -f /etc/slurm/slurm.conf /etc/slurm/gres.conf
    if ((status)); then
        echo "try_slurm: it did NOT hold; the last lines of the logs in $work:" >&2
        tail -v -n 15 "$work"/*.log >&2
    fi
    if [[ -n "${KEEP:-}" ]]; then
        echo "kept: $work"
        exit "$status"
    fi
    packages | comm -13 "$work/packages.before" - | DEBIAN_FRONTEND=noninteractive xargs -r apt-get purge -y >"$work/purge.log" 2>&1 ||
        tail -n 5 "$work/purge.log" >&2
    rmdir --ignore-fail-on-non-empty /etc/slurm 2>/dev/null
    ((status)) && echo "kept: $work" || rm -rf "$work"
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

say "installing Slurm"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq >"$work/apt.log" 2>&1 || true # an existing index is good enough
apt-get install -y --no-install-recommends munge slurmctld slurmd slurm-client >>"$work/apt.log" 2>&1 ||
    die "apt-get install failed: $(tail -n 3 "$work/apt.log")"
slurmctld -V

say "starting munged, slurmctld and slurmd on loopback, in $work"
host="$(hostname -s)"
mkdir "$work/state" "$work/spool"
dd if=/dev/urandom of="$work/munge.key" bs=1024 count=1 status=none
chmod 600 "$work/munge.key"
mknod "$work/gpu0" c 1 3 # character devices (as /dev/null) that imitate two GPUs; Slurm accepts no other files
mknod "$work/gpu1" c 1 3
# Memory and cores are the machine's; there is no accounting and no control group; all else is Slurm's default.
cat >"$work/slurm.conf" <<CONF
ClusterName=try
SlurmctldHost=$host(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket=$work/munge.socket
SlurmUser=root
SlurmdUser=root
SlurmctldPort=16817
SlurmdPort=16818
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$work/jobs.txt
GresTypes=gpu
$(slurmd -C | sed -n 's/^NodeName=\S*/NodeName='"$host"' NodeAddr=127.0.0.1 Gres=gpu:2/p')
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
echo "Name=gpu File=$work/gpu[0-1]" >"$work/gres.conf"
# It is in /etc, because the plugin removes the variable SLURM_CONF from the processes that it starts in a job.
mkdir -p /etc/slurm
cp "$work/slurm.conf" "$work/gres.conf" /etc/slurm/
munged --key-file="$work/munge.key" --socket="$work/munge.socket" --pid-file="$work/munged.pid" \
    --log-file="$work/munged.log" --seed-file="$work/munged.seed"
slurmctld
slurmd
for _ in {1..30}; do
    [[ "$(sinfo -h -o %T 2>/dev/null)" == idle ]] && break
    sleep 1
done
[[ "$(sinfo -h -o %T)" == idle ]] || die "the node is not ready: $(scontrol show node 2>&1 | grep -E 'State|Reason')"
sinfo -h -N -o 'node %N: %T, %c cores, %m MB, %G'

# Differences from the profile, for this machine: less memory and one core per job (so that two fit), shorter waits.
slurm=(--profile slurm --default-resources runtime=120 mem_mb=3500 nodes=1 cpus_per_task=1
    --slurm-init-seconds-before-status-checks 5 --latency-wait 10)
state() { squeue --me -h -o '%i %T %k'; }
job_of() { # job_of NAME: print the id of the running job of that rule, as soon as its notebook has started
    local id=""
    for _ in {1..600}; do
        id="$(squeue --me -h -t RUNNING -o '%i %k' | awk -v c="rule_$1" '$2 == c {print $1}')"
        if [[ -n "$id" ]] && grep -qs ' starting$' "outputs/$run/slurm/rule_$1/$id.log"; then
            echo "$id"
            return
        fi
        sleep 0.5
    done
    die "no job of rule_$1 started"
}
# tables FOLDER: print hash and name of each table, data file, checkpoint and image in it. Two things are left out,
# because they depend on times: the key in the names of cached replies, which depends on the models' times of writing,
# and the speed in a training's log.
tables() {
    "$python" - "$1" <<'PYTHON'
import hashlib, re, sys
from pathlib import Path
import pandas as pd

root, lines = Path(sys.argv[1]), set()
for file in sorted(root.rglob("*")):
    if file.suffix in (".parquet", ".jsonl", ".safetensors", ".png"):
        name = re.sub(r"-[0-9a-f]{16}(?=\.parquet$)", "-KEY", str(file.relative_to(root)))
        content = file.read_bytes()
        if file.name == "log.parquet":
            content = pd.read_parquet(file).drop(columns="train_speed(s/it)").to_csv().encode()
        lines.add(f"{name} {hashlib.sha256(content).hexdigest()}")
print("\n".join(sorted(lines)))
PYTHON
}

say "1. GPUs"
mkdir "$work/gpus"
cat >"$work/gpus/Snakefile" <<'RULES'
rule all:
    input: "two", "none"
for n in (0, 1):
    rule:
        name: f"gpu_{n}"
        output: f"job{n}"
        resources: gpu=1
        shell: "date +%s > {output}; echo $CUDA_VISIBLE_DEVICES >> {output}; sleep 20; date +%s >> {output}"
rule two:
    input: "job0", "job1"
    output: "two"
    shell: "paste {input} > {output}"
rule none:
    input: "two"
    output: "none"
    resources: gpu=0
    shell: "echo ${{CUDA_VISIBLE_DEVICES-unset}} > {output}"
RULES
(cd "$work/gpus" && "$python" -m snakemake "${slurm[@]/#slurm/$root/profiles/slurm}" >"$work/gpus.log" 2>&1) ||
    die "$(tail -n 20 "$work/gpus.log")"
mapfile -t two <"$work/gpus/two"
read -r start0 start1 <<<"${two[0]}"
read -r gpu0 gpu1 <<<"${two[1]}"
read -r end0 end1 <<<"${two[2]}"
echo "CUDA_VISIBLE_DEVICES: job 0 $gpu0, job 1 $gpu1, job without a GPU: $(cat "$work/gpus/none")"
((start0 < end1 && start1 < end0)) || die "the two jobs did not run at the same time."
[[ "$gpu0" != "$gpu1" && "$gpu0$gpu1" =~ ^[01]{2}$ ]] || die "the two jobs did not get one GPU each."
[[ "$(cat "$work/gpus/none")" == unset ]] || die "the job that asked for no GPU got one."

for copy in local slurm; do
    mkdir "$work/$copy"
    git -c safe.directory="$root" ls-files -z --cached --others --exclude-standard | xargs -0 cp -P --parents -t "$work/$copy"
done
export CSP_VENV="${CSP_VENV:-$root/.venv}"
run="$(sed -n 's/^run: *//p' "$params")"
all=$("$python" -c "from csp_utils.pipeline import graph; print(len(graph.steps('$params')))")

say "2. $params, locally"
cd "$work/local"
./run_all.sh "$params"
tables "outputs/$run" >"$work/local.sums"

say "   the same as Slurm jobs"
cd "$work/slurm"
./run_all.sh "$params" "${slurm[@]}"
tables "outputs/$run" >"$work/slurm.sums"
echo
echo "What Slurm wrote down about them (jobcomp):"
count=0
for file in "outputs/$run"/slurm/rule_*/*.log; do
    id="$(basename "$file" .log)"
    printf '%-28s %s\n' "$(basename "$(dirname "$file")")" \
        "$(grep "^JobId=$id " "$work/jobs.txt" | grep -oE '(JobId|JobState|NodeList|ProcCnt|StartTime|EndTime)=\S+' | xargs)"
    grep -q "^JobId=$id .* JobState=COMPLETED " "$work/jobs.txt" || die "Slurm did not complete job $id."
    count=$((count + 1))
done
((count == all)) || die "$all notebooks ran, but $count of them as Slurm jobs."
diff "$work/local.sums" "$work/slurm.sums" || die "the files above differ between the local run and Slurm's."
echo "$(wc -l <"$work/slurm.sums") files (Parquet, JSON lines, safetensors, PNG) are the same, byte by byte, but for a training's speed."

[[ -z "$(state)" ]] || die "jobs are left after the run: $(state)"

say "3. a job that Slurm does not take, and one that is ended with scancel"
# The training is a separate process under the notebook's kernel; a params file without one runs the last notebook.
rule="$("$python" -c "
from csp_utils.pipeline import run as pipeline
rules = [step.rule for step in pipeline.steps('$params')]
print('notebook_04_sft' if 'notebook_04_sft' in rules else rules[-1])")"
echo >>"notebooks/${rule#notebook_}.ipynb" # this changes the notebook: it has to run again, and all that depends on it
./run_all.sh "$params" "${slurm[@]}" --set-resources "$rule:slurm_partition=nowhere" >"$work/refused.out" 2>&1 &&
    die "a job for a partition that is not there was taken."
grep "invalid partition specified: nowhere" "$work/refused.out" || die "it was not said: $(cat "$work/refused.out")"
./run_all.sh "$params" "${slurm[@]}" >"$work/scancel.out" 2>&1 &
pid=$!
id="$(job_of "$rule")"
echo "running: $(state)"
scancel "$id"
wait "$pid" && die "the run went on although its job was cancelled."
grep "^SLURM-job '$id' failed.*CANCELLED" "$work/scancel.out" || die "it was not said: $(cat "$work/scancel.out")"
grep -q "JobState=CANCELLED" <(grep "^JobId=$id " "$work/jobs.txt") || die "job $id is not down as cancelled."
[[ -z "$(state)" ]] || die "jobs are left: $(state)"

say "4. the same command, and Ctrl-C"
setsid "$python" -c "
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with Ctrl-C ignored
os.execv(sys.argv[1], sys.argv[1:])" ./run_all.sh "$params" "${slurm[@]}" >"$work/interrupt.out" 2>&1 &
pid=$!
id="$(job_of "$rule")"
echo "running: $(state)"
training() { # print the ids of the training's processes in this copy of the project
    local each
    for each in /proc/[0-9]*; do
        [[ "$(readlink "$each/cwd")" == "$PWD" ]] || continue
        { tr '\0' ' ' <"$each/cmdline" | grep -qF ' -m swift.cli.' && basename "$each"; } 2>/dev/null || true
    done
}
half() { find "outputs/$run" -name '.*.tmp*' -size +0; }
if [[ "$rule" == notebook_04_sft ]]; then
    for _ in {1..300}; do # until the training runs and has written output
        [[ -n "$(half)" ]] && break
        sleep 0.5
    done
    echo "half-written: $(half)"
    [[ -n "$(half)" ]] || die "the training wrote nothing."
    [[ -n "$(training)" ]] || die "the training does not run."
fi
from=$SECONDS
kill -INT "$pid"
status=0
wait "$pid" || status=$?
cat "$work/interrupt.out"
((status == 130)) || die "exit status $status instead of 130."
echo "ended after $((SECONDS - from)) s; jobs left: '$(state)'; half-written: '$(half)'"
[[ -z "$(training)" ]] || die "the training still runs."
[[ -z "$(state)$(find "outputs/$run" -name '.*.tmp*' -o -name '*.ipynb' -path '*/failed/*')" ]] || die "something is left."

say "5. the same command, and kill -9"
./run_all.sh "$params" "${slurm[@]}" >"$work/killed.out" 2>&1 &
pid=$!
id="$(job_of "$rule")"
kill -KILL "$pid"
wait "$pid" && die "it was not killed."
./run_all.sh "$params" "${slurm[@]}" && die "it started beside the job of the one that was killed."
echo "after kill -9: $(state)"
flock "outputs/$run/.lock" true # until the Snakemake that was left running has ended
grep -q "JobState=COMPLETED" <(grep "^JobId=$id " "$work/jobs.txt") || die "job $id was not left to its end."
submitted() { find "outputs/$run/slurm/rule_$rule" -name '*.log' | wc -l; }
before="$(submitted)"

say "   the same command again, which goes on"
./run_all.sh "$params" "${slurm[@]}"
tables "outputs/$run" >"$work/again.sums"
diff "$work/local.sums" "$work/again.sums" || die "the files above differ from the local run's."
(("$(submitted)" == before)) || die "$rule ran again although job $id had done it."
./run_all.sh "$params" "${slurm[@]}" | tee "$work/nothing.out"
grep -q "nothing to do" "$work/nothing.out" || die "there was something left to do."
[[ -z "$(state)" ]] || die "jobs are left: $(state)"
say "all of it holds"
