"""The job scripts do under a real Slurm what they say: submitted as shipped, but for numbers given to sbatch."""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster.slurm import Slurm

import skillaxes

pytestmark = pytest.mark.cluster

SCRIPTS = Path(skillaxes.__file__).parent / "cluster" / "job_scripts"
SMALL = ("--cpus-per-task=1", "--time=10")  # what these nodes have, in the place of a real one's numbers


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
