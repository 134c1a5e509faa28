#!/bin/bash
#SBATCH --job-name=xmi-x
#SBATCH --partition=gpu
#SBATCH --constraint='a100|h100'
#SBATCH --time=12:00:00
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --mem=500G
#SBATCH --output=runs/x/slurm/%j.log
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
#SBATCH --requeue

# Finished cells are kept: whenever this job is started again, it continues in the same run folder.
set -euo pipefail
again() {
  if [ "${SLURM_RESTART_COUNT:-0}" -lt 20 ]; then
    echo "The time is nearly up: the job is queued again, and continues."
    scontrol requeue "$SLURM_JOB_ID"
  fi
}
trap again USR1

# Ray starts on every node, runs the command on the first one, and stops with it.
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000))
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" \
  ray symmetric-run --address "$head:$port" --min-nodes "$SLURM_JOB_NUM_NODES" --num-cpus 64 --num-gpus 8 -- \
  xmi run --plan 'my plans/plan.yaml' --out runs/x --on auto &
wait "$!"
