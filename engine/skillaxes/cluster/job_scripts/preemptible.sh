#!/bin/bash
# Directions and top-k where jobs are preempted or outlive their time limit: sbatch preemptible.sh
# The job writes checkpoints, goes back into the queue when it is told to stop, and goes on from there when it returns.
#SBATCH --job-name=skillaxes
#SBATCH --partition=preemptible   # the site's name for it
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8       # one process a GPU
#SBATCH --gpus-per-node=8         # every process sees those of its node and takes the one of its own number there
#SBATCH --cpus-per-task=12        # the cores of a node over its processes
#SBATCH --mem=0                   # all the memory of each node
#SBATCH --time=04:00:00           # of one start, not of the whole job
#SBATCH --requeue                 # the job may go back into the queue
#SBATCH --signal=USR1@120         # the processes are told 120 s before the end: a panel and a checkpoint fit into that
#SBATCH --open-mode=append        # all starts write one log
#SBATCH --output=%x-%j.out        # name and number of the job, which stays the same
set -euo pipefail

# source ~/venv/bin/activate              # the environment that skillaxes is installed in, on every node
STORE=${STORE:-/shared/activations.zarr}  # the matrix
RUN_DIR=${RUN_DIR:-/shared/run}           # the checkpoint lies in it: a file system that every node sees
EVERY=${EVERY:-600}                       # seconds between checkpoints: what a crash or a lost node costs at most

# srun does not take --cpus-per-task over from sbatch (since Slurm 22.05), and threads would be counted by the node.
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK
# Told to stop, it exits with 75, and --requeue puts the job back into the queue. Without --overwrite it resumes.
srun --kill-on-bad-exit=1 skillaxes discover "$STORE" "$RUN_DIR" --checkpoint-every "$EVERY" --requeue "$@"
