"""The law: a signal that a scheduler sends ends a job with a checkpoint and exit code 75, and the same command goes on.

The signals are real, sent to this process from within a read.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skillaxes.cluster import signals
from skillaxes.errors import StoppedEarly
from skillaxes.pca import krylov
from skillaxes.pca.krylov import KrylovRead
from skillaxes.run_folder.schema import CHECKPOINT


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """No scheduler and no torchrun around the tests."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "TORCHELASTIC_")):
            monkeypatch.delenv(name)


@pytest.fixture
def signalled(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Arrange for a signal in the middle of the next read, once."""
    original = KrylovRead.update

    def arrange(number: int) -> None:
        left = [1]

        def update(self: KrylovRead, panel: Any) -> None:
            if left:
                left.pop()
                os.kill(os.getpid(), number)
            original(self, panel)

        monkeypatch.setattr(KrylovRead, "update", update)

    return arrange


def manifest(run_dir: Path) -> dict[str, Any]:
    return dict(json.loads((run_dir / "manifest.json").read_text()))


@pytest.mark.parametrize("name", signals.SIGNALS)
def test_a_signal_stops_the_job_and_the_same_command_goes_on(
    store: Path, tmp_path: Path, skillaxes: Any, signalled: Callable[..., None], name: str
) -> None:
    run_dir = tmp_path / "run"
    signalled(getattr(signal, name))
    handler = signal.getsignal(getattr(signal, name))
    ran = skillaxes("discover", store, run_dir, "--top", 3, "--quiet")
    assert ran.code == 75 and len(ran.err.splitlines()) == 1
    assert ran.err.startswith(f"skillaxes: stopped by {name} in read ") and "the same command goes on" in ran.err
    assert manifest(run_dir)["status"] == "stopped" and manifest(run_dir)["stopped"]["by"] == name
    assert (run_dir / CHECKPOINT).is_dir()
    assert signal.getsignal(getattr(signal, name)) is handler and signals.stop_reason() is None
    ran = skillaxes("discover", store, run_dir, "--top", 3, "--quiet")
    assert ran.code == 0, ran.err
    assert manifest(run_dir)["status"] == "done" and manifest(run_dir)["resumptions"] == 1
    assert not (run_dir / CHECKPOINT).exists()


def test_a_signal_while_torch_is_loaded_is_heard(store: Path, tmp_path: Path) -> None:
    """The job stops at its first panel: the second that the import takes is no gap."""
    program = (
        "import builtins, os, signal, sys; load = builtins.__import__\n"
        "def loading(name, *rest, **more):\n"
        "    if name == 'torch' and not sys.modules.get('torch'):\n"
        "        os.kill(os.getpid(), signal.SIGUSR1)\n"
        "    return load(name, *rest, **more)\n"
        "builtins.__import__ = loading\n"
        "from skillaxes.cli import main; sys.exit(main())"
    )
    words = ["discover", str(store), str(tmp_path / "run"), "--top", "3", "--quiet"]
    ended = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False)
    assert ended.returncode == 75, ended.stderr
    assert manifest(tmp_path / "run")["stopped"]["by"] == "SIGUSR1"


def test_work_that_may_end_anywhere_ends_at_once() -> None:
    with pytest.raises(StoppedEarly, match="SIGUSR1"), signals.stop_on_signals(at_once=True):
        os.kill(os.getpid(), signal.SIGUSR1)
        pytest.fail("the signal was not taken")


def test_an_interrupt_still_interrupts() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background has it ignored
    try:
        with pytest.raises(KeyboardInterrupt), signals.stop_on_signals():
            os.kill(os.getpid(), signal.SIGTERM)
            assert signals.stop_reason() == "SIGTERM"
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def scontrol(folder: Path, monkeypatch: pytest.MonkeyPatch, says: str) -> Path:
    """A ``scontrol`` that notes how it was called."""
    folder.mkdir()
    called = folder / "called"
    program = folder / "scontrol"
    program.write_text(f'#!/bin/sh\necho "$@" >> {called}\n{says}\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return called


@pytest.mark.parametrize("array", [False, True])
def test_requeue_asks_slurm(
    store: Path,
    tmp_path: Path,
    skillaxes: Any,
    signalled: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    array: bool,
) -> None:
    called = scontrol(tmp_path / "bin", monkeypatch, "exit 0")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    if array:
        monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "4700")
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    signalled(signal.SIGUSR1)
    ran = skillaxes("discover", store, tmp_path / "run", "--top", 3, "--quiet", "--requeue")
    assert ran.code == 75 and "back in the queue" in ran.err
    assert called.read_text().split() == ["requeue", "4700_3" if array else "4711"]


def test_a_refused_requeue_says_what_to_type(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    scontrol(
        tmp_path / "bin",
        monkeypatch,
        'if [ "$1" = show ]; then echo "   Command=/home/me/axes.sh"; exit 0; fi\n'
        "echo 'Requested operation is presently disabled' >&2; exit 1",
    )
    said = signals.requeue()
    assert "4711 (Requested operation is presently disabled)" in said and said.endswith("sbatch /home/me/axes.sh")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "4700")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert signals.requeue().endswith("sbatch --array=3 /home/me/axes.sh")


def test_requeue_without_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["skillaxes", "discover", "my store", "run"])
    assert "this is no Slurm job" in signals.requeue()
    assert signals.requeue().endswith("skillaxes discover 'my store' run")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "scontrol is not installed here" in signals.requeue() and "sbatch --wrap=" in signals.requeue()


def test_a_stopped_group_is_not_restarted(
    store: Path, tmp_path: Path, skillaxes: Any, signalled: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "run"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "one")
    signalled(signal.SIGTERM)
    assert skillaxes("discover", store, run_dir, "--top", 3, "--quiet").code == 75
    before = (run_dir / "manifest.json").read_bytes()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    ran = skillaxes("discover", store, run_dir, "--top", 3, "--quiet")
    assert ran.code == 75 and "was told to stop" in ran.err
    assert (run_dir / "manifest.json").read_bytes() == before
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "two")
    assert skillaxes("discover", store, run_dir, "--top", 3, "--quiet").code == 0


def test_a_crashed_group_is_restarted(
    store: Path, tmp_path: Path, skillaxes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "one")
    original = krylov.solve
    monkeypatch.setattr(krylov, "solve", lambda state: 1 / 0)
    options = ("discover", store, tmp_path / "run", "--top", 3, "--quiet", "--checkpoint-every", 0)
    assert skillaxes(*options).code == 1
    monkeypatch.setattr(krylov, "solve", original)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert skillaxes(*options).code == 0
    assert manifest(tmp_path / "run")["resumptions"] == 1
