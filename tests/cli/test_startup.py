"""Law: starting up loads nothing heavy. What costs time is imported by the command that needs it."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "zarr", "numpy", "pyarrow", "rich", "datasets", "openai", "pydantic", "safetensors", "triton", "cupy")
COMMANDS = ("run", "discover", "apply", "label", "report", "export", "ingest", "inspect", "doctor")

# A command line that is not ours: Typer loads pydantic to convert the value of --flag.
ANY_COMMAND = """
import typer
app = typer.Typer(rich_markup_mode=None)
@app.callback()
def root(flag: bool = False): pass
@app.command()
def command(): pass
app(['command', '--help'], standalone_mode=False)
"""


def loaded_by(code: str) -> list[str]:
    report = f"print('LOADED', *[m for m in {HEAVY!r} if m in sys.modules])"
    command = [sys.executable, "-c", f"import sys\n{code}\n{report}"]
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
    assert loaded_by("from skillaxes.cli import main; main(['--help'])") == []


def test_help_of_a_command_loads_nothing_heavy_but_what_typer_loads() -> None:
    code = f"from skillaxes.cli import main; [main([command, '--help']) for command in {COMMANDS!r}]"
    assert set(loaded_by(code)) <= set(loaded_by(ANY_COMMAND))


def test_a_wrong_option_loads_nothing_heavy_but_what_typer_loads() -> None:
    code = "from skillaxes.cli import main; main(['discover', '--wrong'])"
    assert set(loaded_by(code)) <= set(loaded_by(ANY_COMMAND))


def test_a_heavy_import_would_be_noticed() -> None:
    assert loaded_by("import skillaxes; skillaxes.discover") != []
