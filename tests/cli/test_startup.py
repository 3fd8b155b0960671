"""Law: starting up loads nothing heavy. What costs time is imported by the command that needs it."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "zarr", "numpy", "pyarrow", "rich", "datasets", "openai", "safetensors", "triton", "cupy")
COMMANDS = ("run", "discover", "apply", "label", "report", "export", "ingest", "inspect", "doctor")


def loaded_by(code: str) -> list[str]:
    report = f"; print('LOADED', *[m for m in {HEAVY!r} if m in sys.modules])"
    command = [sys.executable, "-c", f"import sys; {code}{report}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()[1:]


@pytest.mark.parametrize(
    "code",
    ["import skillaxes", "import skillaxes.labeling, skillaxes.report, skillaxes_kernels"],
)
def test_importing_loads_nothing_heavy(code: str) -> None:
    assert loaded_by(code) == []


def test_help_loads_nothing_heavy() -> None:
    helps = [[]] + [[command] for command in COMMANDS]
    code = f"from skillaxes.cli import main; [main([*command, '--help']) for command in {helps!r}]"
    assert loaded_by(code) == []


def test_a_wrong_option_loads_nothing_heavy() -> None:
    assert loaded_by("from skillaxes.cli import main; main(['discover', '--wrong'])") == []


def test_a_heavy_import_would_be_noticed() -> None:
    assert loaded_by("import skillaxes; skillaxes.discover") != []
