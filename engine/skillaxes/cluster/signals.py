"""Stop on the signals that a scheduler sends before it takes the machine away, and requeue in Slurm.

SIGTERM, SIGUSR1 and SIGUSR2 set a flag. The job finishes its current panel, writes a checkpoint and ends with exit
code 75. Further signals change nothing; an interrupt (Ctrl-C) ends the process at once.

torchrun forwards only the signals that its option ``--signals-to-handle`` names. By default these include SIGTERM and
SIGINT, while SIGUSR1 and SIGUSR2 end torchrun. It kills its processes ``--shutdown-timeout`` seconds (30) later. Under
a torchrun that Slurm signals: ``--signals-to-handle SIGTERM,SIGINT,SIGUSR1,SIGUSR2 --shutdown-timeout 100``.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from skillaxes.errors import StoppedEarly

SIGNALS = ("SIGTERM", "SIGUSR1", "SIGUSR2")
_SCONTROL_TIMEOUT = 60  # seconds that scontrol may take


class _Flag:
    """Why this process is to stop; None while it is not."""

    reason: str | None = None


def stop_reason() -> str | None:
    """The name of the signal, or another reason, for which this process is to stop; None while it is not."""
    return _Flag.reason


def request_stop(reason: str) -> None:
    """Ask this process to stop after its current panel; the first reason stays."""
    _Flag.reason = _Flag.reason or reason


@contextmanager
def stop_on_signals(*, at_once: bool = False) -> Iterator[None]:
    """Treat the signals as requests to stop while the block lasts.

    Only the main thread receives signals; in other threads the block changes nothing.

    Parameters
    ----------
    at_once : raise :class:`StoppedEarly` at the signal, for work that may end at any moment
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if at_once:
            raise StoppedEarly(f"stopped by {name}: the same command goes on from here")
        request_stop(name)

    before = {name: signal.signal(getattr(signal, name), handle) for name in SIGNALS if hasattr(signal, name)}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler if handler is not None else signal.SIG_DFL)
        _Flag.reason = None


def run_id() -> str | None:
    """The id of this torchrun job; None outside torchrun."""
    return os.environ.get("TORCHELASTIC_RUN_ID")


def restarted() -> bool:
    """Whether torchrun has restarted this group of processes after a failure of one of them."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT") or 0) > 0


def slurm_job() -> str | None:
    """The id of the Slurm job for ``scontrol requeue``, of the single task in an array; None outside a Slurm job."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    if array and task:
        return f"{array}_{task}"
    return os.environ.get("SLURM_JOB_ID")


def requeue() -> str:
    """Ask Slurm to requeue this job; returns one line with the outcome, and with what to type instead on failure."""
    job = slurm_job()
    if job is None:
        return f"--requeue: this is no Slurm job, so nothing was requeued; go on with: {_same_command()}"
    try:
        done = subprocess.run(
            ["scontrol", "requeue", job], capture_output=True, text=True, timeout=_SCONTROL_TIMEOUT, check=False
        )
        refused = " ".join((done.stderr or done.stdout).split()) if done.returncode else None
        refused = refused or (f"exit code {done.returncode}" if done.returncode else None)
    except FileNotFoundError:
        refused = "scontrol is not installed here"
    except (OSError, subprocess.TimeoutExpired) as error:
        refused = str(error)
    if refused is None:
        return f"job {job} is back in the queue and goes on from its checkpoint"
    return f"Slurm did not requeue job {job} ({refused}); go on with: {_sbatch()}"


def _sbatch() -> str:
    """The command that submits the batch script again."""
    words = ["sbatch"]
    if task := os.environ.get("SLURM_ARRAY_TASK_ID"):
        words.append(f"--array={task}")
    script = _batch_script()
    return " ".join([*words, script]) if script else f"{' '.join(words)} --wrap={shlex.quote(_same_command())}"


def _batch_script() -> str | None:
    """The path of the batch script from Slurm; None where Slurm has none."""
    job = os.environ.get("SLURM_JOB_ID", "")
    try:
        shown = subprocess.run(
            ["scontrol", "show", "job", job], capture_output=True, text=True, timeout=_SCONTROL_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    for line in shown.stdout.splitlines():
        name, _, value = line.strip().partition("=")
        if name == "Command" and value and value != "(null)":
            return value
    return None


def _same_command() -> str:
    return shlex.join(["skillaxes", *sys.argv[1:]])
