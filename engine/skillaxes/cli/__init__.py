"""The command ``skillaxes``. Wiring only: every command calls one function that Python users call too."""

from __future__ import annotations


def main(arguments: list[str] | None = None) -> int:
    """Run a command line (default: the process's own) and return its exit code."""
    from skillaxes.cli.app import run

    return run(arguments)
