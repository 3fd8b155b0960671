"""Being told to stop: signals that a scheduler sends before it takes the machine away.

SIGTERM, SIGUSR1 and SIGUSR2 set a flag. The panel in hand is finished, a checkpoint is written and the job ends with
exit code 75; a process that is asked again stays calm, one that is interrupted (Ctrl-C) ends at once.

torchrun hands on only the signals that its option ``--signals-to-handle`` names (SIGTERM and SIGINT among its defaults,
USR1 and USR2 not: those end it), and ends its processes ``--shutdown-timeout`` seconds (30) later whatever they do. So
under a torchrun that Slurm signals: ``--signals-to-handle SIGTERM,SIGINT,SIGUSR1,SIGUSR2 --shutdown-timeout 100``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from skillaxes.errors import StoppedEarly

SIGNALS = ("SIGTERM", "SIGUSR1", "SIGUSR2")
_PATIENCE = 60  # seconds that scontrol may take


class _Flag:
    """What asked this process to stop; None while nothing has."""

    reason: str | None = None


def asked() -> str | None:
    """The signal that asked this process to stop, or another reason; None while nothing has."""
    return _Flag.reason


def ask(reason: str) -> None:
    """Ask this process to stop at its next panel; the first reason stays."""
    _Flag.reason = _Flag.reason or reason


@contextmanager
def listening(*, at_once: bool = False) -> Iterator[None]:
    """Take the signals as a request to stop, while the block lasts.

    Signals reach the main thread only; elsewhere the block changes nothing.

    Parameters
    ----------
    at_once : raise :class:`StoppedEarly` where the signal arrives, for work that may end at any moment
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def heard(number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if at_once:
            raise StoppedEarly(f"stopped by {name}: the same command goes on from here")
        ask(name)

    before = {name: signal.signal(getattr(signal, name), heard) for name in SIGNALS if hasattr(signal, name)}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler if handler is not None else signal.SIG_DFL)
        _Flag.reason = None


def run_id() -> str | None:
    """The name of this torchrun job; None outside torchrun."""
    return os.environ.get("TORCHELASTIC_RUN_ID")


def restarted() -> bool:
    """Whether torchrun has started this group of processes again after one of them failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT") or 0) > 0


def slurm_job() -> str | None:
    """The job as ``scontrol requeue`` names it, an array's task by itself; None outside a Slurm job."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    if array and task:
        return f"{array}_{task}"
    return os.environ.get("SLURM_JOB_ID")


def requeue() -> str:
    """Ask Slurm to put this job back into its queue; one line on what came of it, with what to type where it failed."""
    job = slurm_job()
    if job is None:
        return f"--requeue: this is no Slurm job, so nothing was requeued; go on with: {_same_command()}"
    try:
        done = subprocess.run(
            ["scontrol", "requeue", job], capture_output=True, text=True, timeout=_PATIENCE, check=False
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
    """The line that submits the batch script again."""
    words = ["sbatch"]
    if task := os.environ.get("SLURM_ARRAY_TASK_ID"):
        words.append(f"--array={task}")
    script = _batch_script()
    return " ".join([*words, script]) if script else f"{' '.join(words)} --wrap={_quoted(_same_command())}"


def _batch_script() -> str | None:
    """The script as it was submitted, if Slurm tells."""
    job = os.environ.get("SLURM_JOB_ID", "")
    try:
        shown = subprocess.run(
            ["scontrol", "show", "job", job], capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    for line in shown.stdout.splitlines():
        name, _, value = line.strip().partition("=")
        if name == "Command" and value and value != "(null)":
            return value
    return None


def _same_command() -> str:
    return " ".join(_quoted(word) for word in ["skillaxes", *sys.argv[1:]])


def _quoted(word: str) -> str:
    import shlex

    return shlex.quote(word)
