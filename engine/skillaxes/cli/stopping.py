"""Commands that a scheduler may stop: signals set a flag, and ``--requeue`` puts the job back into Slurm's queue."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from skillaxes.errors import StoppedEarly


@contextmanager
def stoppable(requeue: bool = False, *, at_once: bool = False) -> Iterator[None]:
    """While the block lasts, SIGTERM, SIGUSR1 and SIGUSR2 ask the job to stop.

    Parameters
    ----------
    requeue : ask Slurm to run the job again once it has stopped; no process may still be at work then
    at_once : the block's work may end at any moment
    """
    from skillaxes.cluster import preemption

    try:
        with preemption.listening(at_once=at_once):
            yield
    except StoppedEarly:
        if requeue:
            typer.echo(f"skillaxes: {preemption.requeue()}", err=True)
        raise
