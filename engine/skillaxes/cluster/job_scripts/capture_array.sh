#!/bin/bash
# Activations into one store by many writers at once, one GPU each. Set what stands in capture.py, then
#     STORE=/shared/activations.zarr TRACES=/shared/traces.jsonl
#     python capture.py create "$STORE" "$TRACES"      # once, where you submit from
#     sbatch capture_array.sh                          # a part that failed is written again: sbatch --array=3 ...
#SBATCH --job-name=capture
#SBATCH --array=0-15              # as many as PARTS below, counted from 0
#SBATCH --ntasks=1
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=04:00:00
#SBATCH --requeue                 # a preempted part begins anew
#SBATCH --output=%x-%A-%a.out     # name, number of the job, number of the part
set -euo pipefail

# source ~/venv/bin/activate              # the environment that skillaxes and your model's library are installed in
STORE=${STORE:-/shared/activations.zarr}  # made by "capture.py create"
TRACES=${TRACES:-/shared/traces.jsonl}    # one text a line; line i becomes row i
PARTS=${PARTS:-16}                        # not Slurm's count, which is another one when a single part is submitted again
CAPTURE=${CAPTURE:-capture.py}            # Slurm runs a copy of this script, so the path is that of where you submit

srun python "$CAPTURE" write "$STORE" "$TRACES" --part "$SLURM_ARRAY_TASK_ID" --parts "$PARTS"
