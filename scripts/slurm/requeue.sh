#!/usr/bin/env bash
# A run that goes on through any number of jobs: Slurm signals it before the job's time is over or when the job is
# preempted; it saves and ends, and the job puts itself back into the queue. One task for each GPU, without a launcher.
#
#     sbatch --nodes=8 --gpus-per-node=8 --ntasks-per-node=8 scripts/slurm/requeue.sh tokenizer/train.py RUN [--config ...]
#
#SBATCH --job-name=vqrae
#SBATCH --time=04:00:00
#SBATCH --signal=USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
(($# >= 2)) || { echo "error: expected TRAINER RUN [OPTION ...]" >&2; exit 2; }
trainer=$1 run=$2
shift 2
cd "${SLURM_SUBMIT_DIR:-.}"

rm -f "$run/preempted"  # of a former job: what stands there after this one was left by it
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
MASTER_ADDR=${hosts%%$'\n'*}
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export MASTER_ADDR MASTER_PORT

# Signals reach the tasks themselves; the first task that fails ends the others.
code=0
# shellcheck disable=SC2016  # each task has its own numbers
srun --kill-on-bad-exit=1 bash -c '
    export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
    exec .venv/bin/python "$0" "$@"' "$trainer" "$@" "output=$run" || code=$?

if [[ -e $run/preempted ]]; then
    echo "stopped: $(tr -d '\n' <"$run/preempted")"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
