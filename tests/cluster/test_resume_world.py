"""The law: several processes that are stopped, or killed, together go on together and end with the same bytes; another
number of them goes on from the last complete read.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from cluster.groups import Group, run_well
from cluster.runs import at_work, same_bits, same_findings
from support.matrices import power_law, rounded, write_store

pytestmark = pytest.mark.cluster

SLOWLY = (str(Path(__file__).with_name("slowly.py")),)
N, D = 3000, 120


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = rounded(power_law(N, D, exponent=0.4), "float16")
    return write_store(tmp_path_factory.mktemp("store") / "store", rows, "float16", chunk_rows=100)


def words(store: Path, run_dir: Path, solver: str) -> tuple[object, ...]:
    options = ("--solver", solver, "--components", 4, "--top", 5, "--pool", 50, "--tolerance", "1e-6", "--quiet")
    return ("discover", store, run_dir, *options, "--checkpoint-every", "0.2", "--device", "cpu")


def cut_off(command: tuple[object, ...], marks: Path, panels: int, signals: dict[int, signal.Signals]) -> list[int]:
    """Start two processes, signal some of them when they have done some panels; the exit codes."""
    marks.mkdir()
    group = Group(2, command, program=SLOWLY, env={"MARKS": str(marks), "PAUSE": "0.04"})
    at_work(marks, panels, 2, log=lambda: str(group.wait(1)))
    for index, number in signals.items():
        os.kill(group.processes[index].pid, number)
    ended = group.wait(60)
    return [one.code for one in ended]


@pytest.fixture(scope="module")
def undisturbed(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    known: dict[str, Path] = {}

    def run_dir(solver: str) -> Path:
        if solver not in known:
            known[solver] = tmp_path_factory.mktemp(solver) / "run"
            ended = Group(2, words(store, known[solver], solver), program=SLOWLY).wait(120)
            assert [one.code for one in ended] == [0, 0], ended
        return known[solver]

    return run_dir


@pytest.mark.parametrize(
    ("solver", "panels"), [("krylov", 10), ("krylov", 35), ("covariance", 12), ("incremental", 12)]
)
def test_stopped_together(tmp_path: Path, store: Path, undisturbed: Any, solver: str, panels: int) -> None:
    """A signal to one of them stops both."""
    command = words(store, tmp_path / "run", solver)
    codes = cut_off(command, tmp_path / "marks", panels, {1: signal.SIGUSR1})
    assert codes == [75, 75]
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["status"] == "stopped" and manifest["stopped"]["checkpoint"]
    ended = Group(2, command, program=SLOWLY).wait(120)
    assert [one.code for one in ended] == [0, 0], ended
    same_bits(undisturbed(solver), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoint").exists()


@pytest.mark.parametrize("panels", [40])
def test_killed_together(tmp_path: Path, store: Path, undisturbed: Any, panels: int) -> None:
    command = words(store, tmp_path / "run", "krylov")
    killed = dict.fromkeys((0, 1), signal.SIGKILL)
    assert cut_off(command, tmp_path / "marks", panels, killed) == [-signal.SIGKILL, -signal.SIGKILL]
    assert (tmp_path / "run" / "checkpoint" / "state.pt").exists()
    ended = Group(2, command, program=SLOWLY).wait(120)
    assert [one.code for one in ended] == [0, 0], ended
    same_bits(undisturbed("krylov"), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["resumptions"] == 1


@pytest.mark.parametrize("size", [1, 3])
def test_another_number_goes_on_from_the_last_read(tmp_path: Path, store: Path, undisturbed: Any, size: int) -> None:
    command = words(store, tmp_path / "run", "krylov")
    assert cut_off(command, tmp_path / "marks", 30, {0: signal.SIGTERM}) == [75, 75]
    read = json.loads((tmp_path / "run" / "manifest.json").read_text())["stopped"]["where"]
    ended = Group(size, command, program=SLOWLY).wait(120)
    assert [one.code for one in ended] == [0] * size, ended
    stages = json.loads((tmp_path / "run" / "manifest.json").read_text())["stages"]
    assert [stage["name"] for stage in stages].count("read 1") == 1, read
    same_findings(undisturbed("krylov"), tmp_path / "run")


def test_by_the_command_itself(tmp_path: Path, store: Path) -> None:
    """Without the slow panels: nothing of them is in the way of the plain command."""
    run_well(2, *words(store, tmp_path / "run", "krylov"))
