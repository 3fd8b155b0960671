"""The laws of whole jobs live beside the tests that hold them on the CPU; test files are no package."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stream"))
