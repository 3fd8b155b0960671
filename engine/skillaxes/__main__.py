"""``python -m skillaxes``: the command line, for ``torchrun -m skillaxes`` and machines without scripts on the path."""

from skillaxes.cli import entry

if __name__ == "__main__":
    entry()
