"""Start and end of a command: joining its other processes, stopping on signals, requeueing with Slurm."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from skillaxes.cli.options import Values
from skillaxes.errors import StoppedEarly
from skillaxes.options import option

if TYPE_CHECKING:
    from skillaxes.cluster.launch import Process
    from skillaxes.cluster.world import World


@contextmanager
def stoppable(requeue: bool = False, *, at_once: bool = False) -> Iterator[None]:
    """Treat SIGTERM, SIGUSR1 and SIGUSR2 as requests to stop while the block lasts.

    Parameters
    ----------
    requeue : ask Slurm to run the job again once it has stopped; no process may be at work then
    at_once : stop at the signal, for work that may end at any moment
    """
    from skillaxes.cluster import signals

    try:
        with signals.stop_on_signals(at_once=at_once):
            yield
    except StoppedEarly:
        if requeue:
            typer.echo(f"skillaxes: {signals.requeue()}", err=True)
        raise


@dataclass(frozen=True)
class ProcessOptions:
    """Options of a job of several processes; torchrun and srun set the first two and the last by themselves."""

    process_index: int | None = option(
        None, metavar="I", help="Which of several processes this is. [default: as torchrun or srun]"
    )
    world_size: int | None = option(
        None, metavar="W", help="Processes that share the job; with --dry-run, predict their time and traffic."
    )
    rate: tuple[str, ...] = option(
        (), metavar="NAME=N", help="State a rate behind that prediction: network=25e9 (bytes/s). Repeatable."
    )
    rendezvous: str | None = option(
        None, metavar="HOST:PORT", help="Where they meet. [default: $MASTER_ADDR:$MASTER_PORT, or loopback]"
    )


def forecast_options(options: Values, run_dir: Path) -> dict[str, Any]:
    """Arguments of ``skillaxes.plan`` about several processes; the read rate comes from a finished job in ``run_dir``.

    Parameters
    ----------
    options : of :class:`ProcessOptions`

    Raises
    ------
    UsageError : a world size below 1, or a rate that is not NAME=N
    """
    from skillaxes.errors import RunFolderError, UsageError
    from skillaxes.run.forecast import measured, rates_from
    from skillaxes.run_folder.manifest import read_manifest

    asked = ProcessOptions(**options)
    size = asked.world_size or 1
    if size < 1:
        raise UsageError(f"--world-size {size}: needs at least 1 process")
    rates = rates_from(asked.rate)
    if not rates.read:
        with suppress(RunFolderError):
            rates = replace(rates, read=measured(read_manifest(run_dir)))
    return {"world_size": size, "rates": rates}


def this_process(options: Values) -> Process:
    """This process, from flags and environment.

    Parameters
    ----------
    options : of :class:`ProcessOptions`

    Raises
    ------
    UsageError : flags or variables that contradict each other
    """
    from skillaxes.cluster.launch import detect_launcher

    asked = ProcessOptions(**options)
    return detect_launcher(
        os.environ,
        index=asked.process_index,
        size=asked.world_size,
        rendezvous=asked.rendezvous,
        terminal=sys.stdin is not None and sys.stdin.isatty(),
    )


@contextmanager
def joined(process: Process, requeue: bool) -> Iterator[World]:
    """The world of a job; signals may stop the job while the block lasts."""
    if process.size > 1:  # before torch is loaded; the heartbeat reports failures between processes, once
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from skillaxes.cluster import signals

    if process.remark is not None:
        typer.echo(process.remark, err=True)
    try:
        with stoppable():
            from skillaxes.cluster.torch_world import connect  # loads torch for a second, in which a signal may come

            with connect(process, signals.stop_reason) as world:
                try:
                    yield world
                except StoppedEarly:
                    # srun --kill-on-bad-exit and torchrun end all processes with the first one, so all wait until
                    # Slurm has answered.
                    if requeue and process.index == 0:
                        typer.echo(f"skillaxes: {signals.requeue()}", err=True)
                    world.barrier_after_stop("the end")
                    raise
    except StoppedEarly:
        if process.size > 1:  # srun and torchrun send SIGTERM, and every exit code is to be 75
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise
