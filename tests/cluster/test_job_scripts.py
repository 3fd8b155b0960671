"""The job scripts that users copy parse, explain each of their lines, and agree with each other on what is common.

That they run is for ``test_slurm.py``, which submits them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import skillaxes

FOLDER = Path(skillaxes.__file__).parent / "cluster" / "job_scripts"
SCRIPTS = sorted(FOLDER.glob("*.sh"))
CAPTURE = FOLDER / "capture.py"


def test_there_are_scripts() -> None:
    assert [script.name for script in SCRIPTS] == ["capture_array.sh", "many_nodes.sh", "one_node.sh", "preemptible.sh"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_parses(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", script], check=True)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_stops_at_its_first_failure_and_says_what_it_sets(script: Path) -> None:
    text = script.read_text()
    assert text.startswith("#!/bin/bash\n# ")
    assert "\nset -euo pipefail\n" in text
    # Slurm reads its lines up to the first command only.
    assert text.rindex("#SBATCH") < text.index("set -euo")
    obvious = ("--job-name", "--nodes", "--time", "--ntasks=1", "--gpus-per-task", "--cpus-per-task=8", "--mem=64G")
    for line in re.findall(r"^#SBATCH (.*)$", text, re.MULTILINE):
        assert " # " in line or line.startswith(obvious), line


def _capture(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(CAPTURE), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_capture_in_parts_gives_every_row_and_id(sample: Path, tmp_path: Path) -> None:
    lines = (sample / "traces.jsonl").read_text().splitlines()[:600]
    traces = tmp_path / "traces.jsonl"
    traces.write_text("\n".join(lines) + "\n")
    store = tmp_path / "store.zarr"
    assert _capture("create", store, traces).returncode == 0
    for part in (3, 1, 0, 2):  # one more than there are files
        done = _capture("write", store, traces, "--part", part, "--parts", 4)
        assert done.returncode == 0, done.stderr
    opened = skillaxes.open_store(store)
    assert opened.shape == (600, 192)
    assert opened.trace_ids([0, 255, 256, 599]) == [json.loads(lines[row])["id"] for row in (0, 255, 256, 599)]
    assert not opened.missing_chunks()
    assert np.unique(opened.read_rows(0, 600), axis=0).shape[0] > 500
