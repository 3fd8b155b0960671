"""The job scripts do under a real Slurm what they say: submitted as shipped, but for numbers given to sbatch.

Two tasks find what one process finds; a job that is told to stop, is preempted or runs out of time goes back into the
queue and ends with the bits of an undisturbed one; a killed task ends the job at once and is named.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from cluster.runs import at_work, manifest, same_bits, same_findings
from support.slurm import Slurm

import skillaxes

pytestmark = pytest.mark.cluster

SCRIPTS = Path(skillaxes.__file__).parent / "cluster" / "job_scripts"
SMALL = ("--cpus-per-task=1", "--time=10")  # what these nodes have, in the place of a real one's numbers
ONE_NODE = (*SMALL, "--nodes=1", "--ntasks-per-node=2", "--gpus-per-node=2")
TWO_NODES = (*SMALL, "--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=1")


@dataclass(frozen=True)
class Place:
    """Where one job of a test reads and writes."""

    slurm: Slurm
    folder: Path
    store: Path

    @property
    def run_dir(self) -> Path:
        return self.folder / "run"

    def submit(self, *options: str | Path, **variables: str) -> str:
        """``sbatch``; the last option is a script, or ``--wrap``."""
        (self.folder / "marks").mkdir(parents=True, exist_ok=True)
        found = {"STORE": str(self.store), "RUN_DIR": str(self.run_dir), "MARKS": str(self.folder / "marks")}
        output = f"--output={self.folder}/log"
        return self.slurm.submit(output, *options, **{**found, **variables})

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text() if (self.folder / "log").exists() else ""

    def ended(self, job: str, state: str = "COMPLETED", timeout: float = 120) -> dict[str, str]:
        """Wait for the end of a job; it must be ``state``."""
        found = self.slurm.wait(job, timeout=timeout)
        assert found["JobState"] == state, f"{found['JobState']} {found.get('ExitCode')}\n{self.log}"
        return found

    def at_work(self, panels: int, tasks: int = 2, timeout: float = 60) -> list[int]:
        """Wait until every task has handed out some panels; their process ids."""
        return at_work(self.folder / "marks", panels, tasks, log=lambda: self.log, timeout=timeout)

    def at_work_and_preemptible(self, panels: int) -> str:
        """A job on two nodes that may be put back into the queue, once every task has handed out some panels."""
        job = self.submit(*TWO_NODES, SCRIPTS / "preemptible.sh", PAUSE="0.5", EVERY="600")
        self.at_work(panels)
        return job


@pytest.fixture
def place(slurm: Slurm, sample: Path, tmp_path: Path) -> Callable[[str], Place]:
    """A folder for one job on the sample."""
    return lambda name: Place(slurm, tmp_path / name, sample / "activations.zarr")


@pytest.fixture(scope="session")
def undisturbed(slurm: Slurm, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The run folders of one process and of two on two nodes, which nothing disturbed."""
    sample = Path(__file__).resolve().parents[2] / "bench" / "sample" / "activations.zarr"
    one, two = (Place(slurm, tmp_path_factory.mktemp(name), sample) for name in ("one", "two"))
    jobs = [
        one.submit(*SMALL, "--ntasks=1", "--wrap", 'srun skillaxes discover "$STORE" "$RUN_DIR"', OMP_NUM_THREADS="1"),
        two.submit(*TWO_NODES, SCRIPTS / "many_nodes.sh"),
    ]
    one.ended(jobs[0])
    two.ended(jobs[1])
    return {1: one.run_dir, 2: two.run_dir}


def test_an_array_of_writers_fills_one_store(slurm: Slurm, sample: Path, tmp_path: Path) -> None:
    traces = sample / "traces.jsonl"
    stores = [tmp_path / "by_two.zarr", tmp_path / "by_one.zarr"]
    for store in stores:
        made = slurm.run("python", SCRIPTS / "capture.py", "create", store, traces)
        assert made.returncode == 0, made.stderr
    where = {"TRACES": str(traces), "CAPTURE": str(SCRIPTS / "capture.py")}
    output = f"--output={tmp_path}/%x-%A-%a.out"
    script = SCRIPTS / "capture_array.sh"
    slurm.submit("--wait", output, *SMALL, "--array=0-1", script, STORE=str(stores[0]), PARTS="2", **where)
    slurm.submit("--wait", output, *SMALL, "--array=0", script, STORE=str(stores[1]), PARTS="1", **where)
    two, one = (skillaxes.open_store(store) for store in stores)
    assert two.n_rows == 1000 and not two.missing_chunks()
    assert two.fingerprint() == one.fingerprint()
    assert (two.read_rows(0, 1000) == one.read_rows(0, 1000)).all()
    assert two.trace_ids(range(1000)) == one.trace_ids(range(1000))


def test_two_nodes_find_what_one_process_finds(undisturbed: dict[int, Path]) -> None:
    same_findings(undisturbed[1], undisturbed[2])


def test_one_node_from_a_staged_store_to_labels_and_report(
    place: Callable[[str], Place], sample: Path, undisturbed: dict[int, Path]
) -> None:
    here = place("staged")
    traces, local = str(sample / "traces.jsonl"), here.folder / "local"
    here.ended(here.submit(*ONE_NODE, SCRIPTS / "one_node.sh", TRACES=traces, LOCAL=str(local)))
    assert (local / "activations.zarr" / "zarr.json").exists()
    same_bits(here.run_dir, undisturbed[2])
    assert len((here.run_dir / "labels.jsonl").read_text().splitlines()) == 10
    assert (here.run_dir / "report.html").exists()


def test_the_batch_shell_is_no_step(place: Callable[[str], Place], undisturbed: dict[int, Path]) -> None:
    here = place("batch")
    wrap = 'skillaxes discover "$STORE" "$RUN_DIR"'
    here.ended(here.submit(*SMALL, "--ntasks=2", "--wrap", wrap, OMP_NUM_THREADS="1"))
    assert "srun" in here.log  # what would have started two
    same_bits(here.run_dir, undisturbed[1])


def test_told_to_stop_it_is_requeued_and_ends_with_the_same_bits(
    place: Callable[[str], Place], undisturbed: dict[int, Path]
) -> None:
    here = place("told")
    job = here.at_work_and_preemptible(panels=3)
    here.slurm.run("scancel", "--signal=USR1", job)
    found = here.ended(job)
    assert found["Restarts"] == "1", here.log
    same_bits(here.run_dir, undisturbed[2])


def test_preempted_by_a_more_urgent_job_it_ends_with_the_same_bits(
    place: Callable[[str], Place], undisturbed: dict[int, Path]
) -> None:
    here = place("preempted")
    job = here.at_work_and_preemptible(panels=10)  # in the second read
    urgent = here.slurm.submit("--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    found = here.ended(job)
    assert here.slurm.wait(urgent)["JobState"] == "COMPLETED"
    assert int(found["Restarts"]) >= 1
    same_bits(here.run_dir, undisturbed[2])


def test_out_of_time_it_is_requeued_and_ends_with_the_same_bits(
    place: Callable[[str], Place], undisturbed: dict[int, Path]
) -> None:
    here = place("late")
    # Slurm looks at time limits twice a minute, and sends the signal up to a minute early.
    limit = ("--time=1", "--signal=USR1@10")
    job = here.submit(*TWO_NODES, *limit, SCRIPTS / "preemptible.sh", PAUSE="6", EVERY="600")
    found = here.ended(job, timeout=200)
    assert found["Restarts"] == "1", here.log
    same_bits(here.run_dir, undisturbed[2])


def test_refused_a_requeue_it_says_what_to_type(place: Callable[[str], Place], undisturbed: dict[int, Path]) -> None:
    here = place("refused")
    script = SCRIPTS / "preemptible.sh"
    job = here.submit(*TWO_NODES, "--no-requeue", script, PAUSE="0.5")
    here.at_work(panels=3)
    here.slurm.run("scancel", "--signal=USR2", job)
    found = here.ended(job, "FAILED")
    assert found["ExitCode"] == "75:0", here.log
    assert f"sbatch {script}" in here.log
    assert manifest(here.run_dir)["status"] == "stopped"
    here.ended(here.submit(*TWO_NODES, script))
    same_bits(here.run_dir, undisturbed[2])


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_task_ends_the_job_and_is_named(
    place: Callable[[str], Place], undisturbed: dict[int, Path], victim: int
) -> None:
    here = place("killed")
    # Without --kill-on-bad-exit, so that it is the processes that notice.
    wrap = 'srun --kill-on-bad-exit=0 skillaxes discover "$STORE" "$RUN_DIR" --checkpoint-every 0'
    job = here.submit(*TWO_NODES, "--wrap", wrap, PAUSE="5", OMP_NUM_THREADS="1")
    killed = here.at_work(panels=2)[victim]
    os.kill(killed, signal.SIGKILL)
    began = time.monotonic()
    here.ended(job, "FAILED", timeout=40)
    assert time.monotonic() - began < 30
    assert f"process {victim} " in here.log and f"pid {killed}" in here.log, here.log
    here.ended(here.submit(*TWO_NODES, SCRIPTS / "many_nodes.sh"))
    same_bits(here.run_dir, undisturbed[2])


def test_a_killed_task_ends_the_script_at_once(place: Callable[[str], Place]) -> None:
    here = place("killed")
    job = here.submit(*TWO_NODES, SCRIPTS / "many_nodes.sh", PAUSE="5")
    killed = here.at_work(panels=2)[1]
    os.kill(killed, signal.SIGKILL)
    began = time.monotonic()
    here.ended(job, "FAILED", timeout=40)
    assert time.monotonic() - began < 30
    assert "task 1" in here.log
