#!/bin/bash
# The main job on one node, one process a GPU. Copy this file, set what stands in it, submit it: sbatch one_node.sh
# Options given to sbatch win over the lines below; what follows the file name goes to skillaxes:
#     sbatch --time=01:00:00 one_node.sh --components 20
#SBATCH --job-name=skillaxes
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8       # one process a GPU
#SBATCH --gpus-per-node=8         # every process sees all of them and takes the one of its own number
#SBATCH --cpus-per-task=12        # the cores of the node over its processes
#SBATCH --mem=0                   # all the memory of the node; the processes share it
#SBATCH --time=04:00:00
#SBATCH --output=%x-%j.out        # name and number of the job
set -euo pipefail

# source ~/venv/bin/activate              # the environment that skillaxes is installed in
STORE=${STORE:-/shared/activations.zarr}  # the matrix
TRACES=${TRACES:-/shared/traces.jsonl}    # the texts that its rows belong to
RUN_DIR=${RUN_DIR:-/shared/run}           # where results go: a file system that every process sees
LOCAL=${LOCAL:-}                          # a folder on the node's own disk; empty: the store is read where it lies

# The store is read two or three times. Staged, it comes over the network once.
if [ -n "$LOCAL" ]; then
    mkdir -p "$LOCAL"
    cp -r "$STORE" "$LOCAL/"
    STORE=$LOCAL/$(basename "$STORE")
fi

# srun does not take --cpus-per-task over from sbatch (since Slurm 22.05), and threads would be counted by the node.
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK
# --kill-on-bad-exit: a process that fails ends the job. Labels: words, offline; names come later, see many_nodes.sh.
srun --kill-on-bad-exit=1 skillaxes run "$STORE" "$RUN_DIR" --traces "$TRACES" "$@"
