"""The results files: one JSON line a measurement, appended and never rewritten."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import provenance

DEFAULT = Path(__file__).resolve().parent / "results" / "results.jsonl"


def quantiles(samples: Sequence[float]) -> dict[str, float]:
    """Number, minimum, quartiles and maximum of some samples; the first and third quartile are samples themselves.

    Raises
    ------
    ValueError : no samples
    """
    ordered = sorted(samples)
    if not ordered:
        raise ValueError("quantiles of no samples: measure at least once")

    def at(share: float) -> float:
        return ordered[round(share * (len(ordered) - 1))]

    return {
        "n": len(ordered),
        "min": ordered[0],
        "p25": at(0.25),
        "p50": statistics.median(ordered),
        "p75": at(0.75),
        "max": ordered[-1],
    }


@dataclass(frozen=True)
class Book:
    """The results file, as one run of one suite writes to it.

    Attributes
    ----------
    path : the file that lines are appended to
    suite : the name of the suite
    command : the command line
    threads : threads of every measured process
    hidden : folders of this machine, and the names that stand for them in the file
    run : identifies the run
    """

    path: Path
    suite: str
    command: str
    threads: int
    hidden: dict[str, str] = field(default_factory=dict)
    run: str = field(default_factory=lambda: time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()) + f"-{os.getpid()}")

    def append(self, measurement: str, case: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
        """Write one line and return it as a dictionary.

        Parameters
        ----------
        measurement : its name, for example that of a peer
        case : the matrix and the options
        values : the figures; times as :func:`quantiles` of seconds
        """
        line = {
            "run": self.run,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "suite": self.suite,
            "measurement": measurement,
            "case": case,
            "values": values,
            "threads": self.threads,
            "command": self.command,
            **provenance.commit(),
            "machine": provenance.machine(),
            "versions": provenance.versions(),
        }
        text = json.dumps(line)
        for folder, name in self.hidden.items():
            text = text.replace(folder, name)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # One write call in append mode: lines of two runs at a time do not mix.
        with open(self.path, "ab") as file:
            file.write(text.encode() + b"\n")
        return dict(json.loads(text))


def load(path: Path, suite: str | None = None, run: str | None = None) -> list[dict[str, Any]]:
    """The lines of a results file, oldest first; of one suite and of one run where these are given.

    ``run="last"`` means the newest run of each suite.
    """
    lines = [json.loads(text) for text in path.read_text().splitlines() if text.strip()]
    lines = [line for line in lines if suite in (None, line["suite"])]
    if run == "last":
        newest = {line["suite"]: line["run"] for line in lines}
        return [line for line in lines if newest[line["suite"]] == line["run"]]
    return [line for line in lines if run in (None, line["run"])]
