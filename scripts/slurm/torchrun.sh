#!/usr/bin/env bash
# A run on several machines by torchrun, one of it on each. A failed process restarts all of them from the newest
# checkpoint, three times; at USR1 or TERM the run saves and ends, and the job goes back into the queue.
#
#     sbatch --nodes=8 --gpus-per-node=8 scripts/slurm/torchrun.sh tokenizer/train.py RUN [--config ...]
#
#SBATCH --job-name=vqrae
#SBATCH --ntasks-per-node=1
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
first=${hosts%%$'\n'*}

# By itself torchrun would die of USR1 and leave its processes behind, and kill them 30 s after any signal.
code=0
srun --kill-on-bad-exit=1 .venv/bin/torchrun \
    --nnodes="$SLURM_NNODES" --nproc-per-node="${GPUS_PER_NODE:-gpu}" --max-restarts=3 \
    --rdzv-backend=c10d --rdzv-id="$SLURM_JOB_ID" --rdzv-endpoint="$first:$((20000 + SLURM_JOB_ID % 20000))" \
    --signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 --shutdown-timeout=240 \
    "$trainer" "$@" "output=$run" || code=$?

if [[ -e $run/preempted ]]; then
    echo "stopped: $(tr -d '\n' <"$run/preempted")"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
