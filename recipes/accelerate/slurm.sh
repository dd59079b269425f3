#!/bin/bash
# A training on machines with eight GPUs each, from the root of a checkout with its environment active:
#   RUN=mtl-large sbatch recipes/accelerate/slurm.sh recipes/mtl_generic.yaml size=large train.batch_size=128 \
#     data.root=/shared/musdb18hq
# Submitted again with the same RUN it continues at the last saved state. Other numbers: sbatch --nodes=4 ...
#SBATCH --job-name=refined_bsrnn
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=48
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.log
set -euo pipefail

gpus_per_node=8
: "${RUN:?Set RUN to the name of the run, for example RUN=mtl-large sbatch ...}"
# All machines must see the folder of runs and the cache.
export REFINED_BSRNN_CACHE="${REFINED_BSRNN_CACHE:-$PWD/.cache/refined_bsrnn}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

if [ -e "runs/$RUN/state/last.safetensors" ]; then
    set -- --resume "runs/$RUN"
else
    set -- "$@" run.root=runs run.name="$RUN"
fi

main_host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
# The rank is that of the machine on which srun starts the shell.
srun --kill-on-bad-exit=1 bash -c 'exec accelerate launch --config_file recipes/accelerate/gpu2x8.yaml \
    --num_machines "$SLURM_NNODES" --num_processes "$0" --machine_rank "$SLURM_NODEID" \
    --main_process_ip "$1" --main_process_port $((20000 + SLURM_JOB_ID % 10000)) \
    scripts/train_mtl.py "${@:2}"' "$((SLURM_NNODES * gpus_per_node))" "$main_host" "$@"
