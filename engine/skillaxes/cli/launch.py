"""Commands that a scheduler may stop: signals set a flag, and ``--requeue`` puts the job back into Slurm's queue."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skillaxes.errors import StoppedEarly

if TYPE_CHECKING:
    from skillaxes.cluster.launch import Process
    from skillaxes.cluster.world import World


@contextmanager
def stoppable(requeue: bool = False, *, at_once: bool = False) -> Iterator[None]:
    """While the block lasts, SIGTERM, SIGUSR1 and SIGUSR2 ask the job to stop.

    Parameters
    ----------
    requeue : ask Slurm to run the job again once it has stopped; no process may still be at work then
    at_once : the block's work may end at any moment
    """
    from skillaxes.cluster import signals as preemption

    try:
        with preemption.listening(at_once=at_once):
            yield
    except StoppedEarly:
        if requeue:
            typer.echo(f"skillaxes: {preemption.requeue()}", err=True)
        raise


@dataclass
class Processes:
    """Which process of how many this is, where neither torchrun nor srun says it."""

    process_index: Annotated[
        int | None, typer.Option(metavar="I", help="Which of several processes this is. [default: as torchrun or srun]")
    ] = None
    world_size: Annotated[
        int | None,
        typer.Option(metavar="W", help="Processes that share the job; with --dry-run, predict their time and traffic."),
    ] = None
    rate: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=N", help="State a rate behind that prediction: network=25e9 (bytes/s). Repeatable."),
    ] = None
    rendezvous: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Where they meet. [default: $MASTER_ADDR:$MASTER_PORT, or loopback]"),
    ] = None


def outlook_options(processes: Processes, run_dir: Path) -> dict[str, Any]:
    """What ``skillaxes.plan`` is told of several processes; a job that is done in RUN_DIR has measured one."""
    from skillaxes.errors import RunFolderError, UsageError
    from skillaxes.run.forecast import measured, rates_from
    from skillaxes.run_folder.manifest import read_manifest

    size = processes.world_size or 1
    if size < 1:
        raise UsageError(f"--world-size {size}: needs at least 1 process")
    rates = rates_from(processes.rate or ())
    if not rates.read:
        with suppress(RunFolderError):
            rates = replace(rates, read=measured(read_manifest(run_dir)))
    return {"world_size": size, "rates": rates}


def find(processes: Processes) -> Process:
    """This process, by flags and environment."""
    from skillaxes.cluster.launch import find_process

    return find_process(
        os.environ,
        index=processes.process_index,
        size=processes.world_size,
        rendezvous=processes.rendezvous,
        terminal=sys.stdin is not None and sys.stdin.isatty(),
    )


@contextmanager
def joined(process: Process, requeue: bool) -> Iterator[World]:
    """The world of a job, which signals may stop while the block lasts."""
    if process.size > 1:  # before torch is loaded: what goes wrong between processes is told by us, once and in words
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from skillaxes.cluster import signals as preemption

    if process.remark is not None:
        typer.echo(process.remark, err=True)
    try:
        with stoppable():
            from skillaxes.cluster.torch_world import connect  # loads torch, for a second in which a signal may come

            with connect(process, preemption.asked) as world:
                try:
                    yield world
                except StoppedEarly:
                    # srun --kill-on-bad-exit and torchrun end all processes with the first one: it waits for what is
                    # told.
                    if requeue and process.index == 0:
                        typer.echo(f"skillaxes: {preemption.requeue()}", err=True)
                    world.settle("the end")
                    raise
    except StoppedEarly:
        if process.size > 1:  # they do so by SIGTERM, and every exit code is to be 75
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise
