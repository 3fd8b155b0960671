"""The options of a job that several processes share, and joining the others."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from skillaxes.cli.stopping import stoppable

if TYPE_CHECKING:
    from skillaxes.cluster.process import Process
    from skillaxes.cluster.world import World


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
    rendezvous: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Where they meet. [default: $MASTER_ADDR:$MASTER_PORT, or loopback]"),
    ] = None


def find(processes: Processes) -> Process:
    """This process, by flags and environment."""
    from skillaxes.cluster.process import find_process

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
    from skillaxes.cluster import preemption
    from skillaxes.cluster.distributed import connect

    if process.remark is not None:
        typer.echo(process.remark, err=True)
    with stoppable(requeue, leads=process.index == 0), connect(process, preemption.asked) as world:
        yield world
