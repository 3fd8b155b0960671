#!/bin/bash
# Directions and top-k on several nodes, one process a GPU: sbatch many_nodes.sh
# Then, where there is network: skillaxes label RUN_DIR --traces SPEC --labeler openai; skillaxes report RUN_DIR
#SBATCH --job-name=skillaxes
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=8       # one process a GPU; each takes an equal part of the rows
#SBATCH --gpus-per-node=8         # every process sees those of its node and takes the one of its own number there
#SBATCH --cpus-per-task=12        # the cores of a node over its processes
#SBATCH --mem=0                   # all the memory of each node
#SBATCH --time=04:00:00
#SBATCH --output=%x-%j.out        # name and number of the job
set -euo pipefail

# source ~/venv/bin/activate              # the environment that skillaxes is installed in, on every node
STORE=${STORE:-/shared/activations.zarr}  # each process reads its own rows only, so there is no use in staging it
RUN_DIR=${RUN_DIR:-/shared/run}           # on a file system that every node sees
# export GLOO_SOCKET_IFNAME=ib0 NCCL_SOCKET_IFNAME=ib0   # where the first network of the nodes is the wrong one

# srun does not take --cpus-per-task over from sbatch (since Slurm 22.05), and threads would be counted by the node.
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK
# The processes find each other by what srun tells them. --kill-on-bad-exit: one that fails ends the job.
srun --kill-on-bad-exit=1 skillaxes discover "$STORE" "$RUN_DIR" "$@"
