"""Processes on two hosts find each other, and what one process finds; a host that is lost ends the job and is named."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster.runs import at_work, same_bits, same_findings
from support.hosts import Host, two_hosts, why_not

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).resolve().parents[2]
STORE = ROOT / "bench" / "sample" / "activations.zarr"
SLOWLY = Path(__file__).with_name("slowly.py")
PATHS = os.pathsep.join(str(ROOT / room) for room in ("engine", "kernels"))


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Host, Host]]:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with two_hosts(tmp_path_factory.mktemp("hosts")) as both:
        yield both


class Job:
    """A job on two hosts, one process each."""

    def __init__(self, hosts: tuple[Host, Host], folder: Path, pause: float = 0) -> None:
        self.hosts, self.folder = hosts, folder
        self.marks, self.run_dir, self._log = folder / "marks", folder / "run", folder / "log"
        self.marks.mkdir(parents=True)
        self._variables = {
            "OMP_NUM_THREADS": "2",  # torchrun's own choice is 1, so a 1 does not count under it
            "PYTHONPATH": PATHS,
            "MARKS": str(self.marks),
            "PAUSE": str(pause),
        }
        self.started: list[subprocess.Popen[bytes]] = []

    @property
    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def start(self, *command: str | Path, on: Host, **variables: str) -> None:
        both = {**self._variables, **variables}
        self.started.append(on.start(sys.executable, *command, log=self._log, variables=both))

    def torchrun(self, *options: str) -> None:
        meeting = ("--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", "--rdzv-endpoint=east:29400")
        for host in self.hosts:
            launcher = ("-m", "torch.distributed.run", *meeting, f"--rdzv-id={self.folder.name}")
            self.start(*launcher, *options, SLOWLY, "discover", STORE, self.run_dir, "--checkpoint-every", "0", on=host)

    def by_flags(self) -> None:
        for rank, host in enumerate(self.hosts):
            flags = ("--process-index", str(rank), "--world-size", "2", "--rendezvous", "east:29500")
            self.start(SLOWLY, "discover", STORE, self.run_dir, *flags, on=host, RANK=str(rank))

    def ended(self, timeout: float) -> list[int]:
        """Wait for both; their exit codes."""
        end = time.monotonic() + timeout
        try:
            return [process.wait(max(end - time.monotonic(), 0.01)) for process in self.started]
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"still there after {timeout:.0f} s\n{self.log}") from None

    def at_work(self, panels: int) -> list[int]:
        return at_work(self.marks, panels, 2, log=lambda: self.log)

    def end(self) -> None:
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.fixture
def job(hosts: tuple[Host, Host], tmp_path: Path) -> Iterator[Callable[..., Job]]:
    """Jobs on the two hosts; what is left of them at the end of the test is killed."""
    made: list[Job] = []

    def make(name: str, pause: float = 0) -> Job:
        made.append(Job(hosts, tmp_path / name, pause))
        return made[-1]

    yield make
    for one in made:
        one.end()


@pytest.fixture(scope="module")
def undisturbed(hosts: tuple[Host, Host], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes find, by torchrun, compared with what one finds."""
    folder = tmp_path_factory.mktemp("undisturbed")
    two = Job(hosts, folder / "two")
    try:
        two.torchrun()
        assert two.ended(120) == [0, 0], two.log
    finally:
        two.end()
    environment = {**os.environ, "PYTHONPATH": PATHS, "OMP_NUM_THREADS": "2"}
    subprocess.run([sys.executable, SLOWLY, "discover", STORE, folder / "one", "--quiet"], env=environment, check=True)
    same_findings(folder / "one", two.run_dir)
    return two.run_dir


def test_torchrun_on_two_hosts_finds_what_one_process_finds(undisturbed: Path) -> None:
    assert (undisturbed / "topk.parquet").exists()


def test_two_hosts_by_flags(job: Callable[..., Job], undisturbed: Path) -> None:
    by_flags = job("flags")
    by_flags.by_flags()
    assert by_flags.ended(90) == [0, 0], by_flags.log
    same_bits(by_flags.run_dir, undisturbed)


def test_a_process_killed_on_one_host_ends_the_other_and_is_named(job: Callable[..., Job]) -> None:
    killed = job("killed", 5)
    killed.by_flags()
    pid = killed.at_work(2)[1]
    os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    codes = killed.ended(40)
    assert time.monotonic() - began < 30
    assert codes == [1, -signal.SIGKILL], killed.log
    assert f"process 1 of 2 (west, pid {pid})" in killed.log, killed.log


def test_a_crashed_group_is_started_again_by_torchrun_and_resumes(job: Callable[..., Job], undisturbed: Path) -> None:
    crashed = job("crashed", 0.5)
    crashed.torchrun("--max-restarts=1")
    os.kill(crashed.at_work(4)[1], signal.SIGKILL)
    assert crashed.ended(120) == [0, 0], crashed.log
    assert crashed.log.count("taken for dead") == 1, crashed.log  # started again once, as the agents' counts differ
    same_bits(crashed.run_dir, undisturbed)


def test_a_cut_cable_ends_both_sides(job: Callable[..., Job], hosts: tuple[Host, Host]) -> None:
    cut = job("cut", 5)
    cut.by_flags()
    cut.at_work(2)
    cable = ["nsenter", f"--target={hosts[1].holder}", "--net", "ip", "link", "set", "eth0"]
    try:
        subprocess.run([*cable, "down"], check=True)
        began = time.monotonic()
        codes = cut.ended(60)
        assert time.monotonic() - began < 30
        assert codes == [1, 1], cut.log
        assert "ends: process 1 of 2 (west" in cut.log and "ends: process 0 of 2 (east" in cut.log, cut.log
    finally:
        subprocess.run([*cable, "up"], check=True)
