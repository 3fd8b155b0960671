"""``python -m skillaxes``: the command line, for ``torchrun -m skillaxes`` and machines without scripts on the path."""

import sys

from skillaxes.cli import main

if __name__ == "__main__":
    sys.exit(main())
