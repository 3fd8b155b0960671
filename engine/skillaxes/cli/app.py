"""The commands. A failure is one line on stderr and an exit code."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from skillaxes.cli import discover, label, results, store
from skillaxes.errors import SkillaxesError

INTERRUPTED = 130

app = typer.Typer(
    name="skillaxes",
    help="Named skill axes from a language model's activations.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(f"skillaxes {version('skillaxes')}")
        except PackageNotFoundError:  # run from a checkout, by PYTHONPATH
            typer.echo("skillaxes, not installed")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")] = False,
) -> None:
    pass


app.command()(discover.run)
app.command()(discover.discover)
app.command()(discover.apply)
app.command()(label.label)
app.command()(results.report)
app.command()(results.export)
app.command()(store.ingest)
app.command()(store.inspect)
app.command()(results.doctor)


def run(arguments: list[str] | None = None) -> int:
    """Run a command line and return its exit code; no exception leaves but SystemExit from the interpreter itself."""
    try:
        code = app(args=arguments, prog_name="skillaxes", standalone_mode=False)
        print(end="", flush=True)  # here, where a failure to write still gets its line and its code
    except SkillaxesError as error:
        return _fail(error, str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:  # the reader of our output has closed it, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _fail(error, str(error), 1)
    except Exception as error:
        if hasattr(error, "format_message"):  # a usage error of typer's, whose classes have no public home
            return _fail(error, _usage(error), 2)
        hint = "" if os.environ.get("SKILLAXES_DEBUG") else " (SKILLAXES_DEBUG=1 shows where)"
        return _fail(error, f"unexpected {type(error).__name__}: {error}{hint}", 1)
    if code == INTERRUPTED:
        typer.echo("skillaxes: interrupted", err=True)
    return code if isinstance(code, int) else 0


def _usage(error: Exception) -> str:
    message = error.format_message()  # type: ignore[attr-defined]
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "skillaxes"
    return f"{message.rstrip('.')} (see {command} --help)"


def _fail(error: BaseException, message: str, code: int) -> int:
    if os.environ.get("SKILLAXES_DEBUG"):
        import traceback

        traceback.print_exception(error)
    typer.echo(f"skillaxes: {' '.join(message.split())}", err=True)
    return code
