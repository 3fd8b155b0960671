"""Law: starting up loads nothing heavy, and ending loses nothing. The command that needs a heavy library imports it."""

from __future__ import annotations

import os
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


# The output of a pipe is buffered; a thread is still at work, and others have left work for the end.
AT_THE_END = """
import atexit, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from skillaxes import cli
pool = ThreadPoolExecutor(1)  # its thread ends with the interpreter alone
pool.submit(int).result()
def work():
    time.sleep(0.3)
    print("threads")
def main():
    print("printed")
    threading.Thread(target=work).start()
    %s
atexit.register(lambda: print("handlers"))
cli.main = main
cli.entry()
"""


ENDS = [
    ("return 75", 75, ""),
    ("sys.exit(2)", 2, ""),
    ("sys.exit('a text')", 1, "a text"),
    ("1 / 0", 1, "ZeroDivisionError"),
]


@pytest.mark.parametrize(("end", "code", "said"), ENDS)
def test_nothing_is_lost_at_the_end(end: str, code: int, said: str) -> None:
    done = subprocess.run([sys.executable, "-c", AT_THE_END % end], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (code, "printed\nthreads\nhandlers\n")
    assert said in done.stderr and bool(said) is bool(done.stderr)


@pytest.mark.parametrize("command", [["--version"], ["doctor", "--json"]])
def test_a_reader_that_has_gone_is_no_error_message(command: list[str]) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    with open(theirs, "w") as output:
        done = subprocess.run(
            [sys.executable, "-m", "skillaxes", *command], stdout=output, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (1, "")
