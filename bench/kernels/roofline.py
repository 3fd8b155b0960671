"""A roofline: bytes and operations of each stage over the card's rates. It is a prediction, not a measurement.

    python -m bench.kernels.roofline             prints the tables
    python -m bench.kernels.roofline --write     writes them to bench/kernels/ROOFLINE.md

Rates are the makers' for the SXM cards, dense: NVIDIA A100 80GB data sheet (2021), H100 data sheet (2023), H200 data
sheet (2024). A card sustains less; ``python -m bench.kernels.gpu`` measures its copy first for that reason.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Card:
    """Bytes and operations a second, bytes of memory and L2 cache."""

    name: str
    memory: float
    half: float
    single: float
    host: float
    hbm_bytes: float
    l2_bytes: float


CARDS = (
    Card("A100 SXM 80 GB", 2.039e12, 312e12, 19.5e12, 32e9, 80e9, 40e6),
    Card("H100 SXM", 3.35e12, 989e12, 67e12, 64e9, 80e9, 50e6),
    Card("H200 SXM", 4.8e12, 989e12, 67e12, 64e9, 141e9, 50e6),
)
DISK = 7e9  # one NVMe drive on PCIe 4, sequential


@dataclass(frozen=True)
class Job:
    """A store, and the directions that its rows are multiplied by."""

    rows: int
    columns: int
    itemsize: int = 2
    directions: int = 48
    reads: int = 3

    @property
    def store(self) -> float:
        """Bytes of the store."""
        return self.rows * self.columns * self.itemsize

    @property
    def padded(self) -> int:
        """Directions with the kernel's padding."""
        return next(n for n in (16, 32, 64, 128) if n >= self.directions)

    @property
    def products(self) -> float:
        """Operations of one product of the store with one block, padding included."""
        return 2 * self.rows * self.columns * self.padded


@dataclass(frozen=True)
class Stage:
    """Seconds of a stage's bytes and of its operations, each at the full rate; the longer of the two is the time."""

    name: str
    moving: float
    computing: float

    @property
    def seconds(self) -> float:
        """The time of the stage."""
        return max(self.moving, self.computing)

    @property
    def bound(self) -> str:
        """``bytes`` or ``operations``, the longer of the two."""
        return "bytes" if self.moving >= self.computing else "operations"


def stages(job: Job, card: Card) -> tuple[Stage, ...]:
    """The stages of one read. The second product finds its panel in L2 where the panel is half of it."""
    half = job.itemsize == 2
    rate = card.half if half else card.single
    panel_rows = max(1, int(card.l2_bytes / 2 / (job.columns * job.itemsize)))
    panels = job.rows / panel_rows
    block = 4 * job.columns * job.directions
    terms = 2 if half else 1
    return (
        Stage("disk to host", job.store / DISK, 0),
        Stage("host to card", job.store / card.host, 0),
        Stage("project: dots and norms", job.store / card.memory, job.products / rate),
        Stage("accumulate, panel from memory", job.store / card.memory, terms * job.products / rate),
        Stage("accumulate, panel in L2: z alone moves", 2 * panels * block / card.memory, terms * job.products / rate),
    )


def tables() -> str:
    """The tables of some jobs on all cards, in Markdown."""
    parts = [
        "# Roofline on paper",
        "",
        "Written by `python -m bench.kernels.roofline --write`. The makers' rates, dense, and nothing else: a",
        "prediction that a measurement will confirm or refute. **No card has run these kernels yet.**",
        "",
        "A stage takes the longer of its bytes and its operations at full rate. 48 directions are padded to 64; the",
        "second product multiplies two half-precision terms; float32 stores are multiplied without TF32, so their",
        "operations go to the ordinary float32 units.",
    ]
    jobs = {
        "50,000 x 30,720, float16 (3.1 GB)": Job(50_000, 30_720),
        "1,000,000 x 30,720, float16 (61 GB)": Job(1_000_000, 30_720),
        "10,000,000 x 4,096, bfloat16 (82 GB)": Job(10_000_000, 4_096),
        "500,000 x 30,720, float32 (61 GB)": Job(500_000, 30_720, itemsize=4),
    }
    for title, job in jobs.items():
        parts += ["", f"## {title}", "", "| stage of one read |" + "".join(f" {card.name} |" for card in CARDS)]
        parts.append("|---|" + "---|" * len(CARDS))
        columns = [stages(job, card) for card in CARDS]
        for row in zip(*columns, strict=True):
            cells = "".join(f" {_seconds(stage.seconds)}, {stage.bound} |" for stage in row)
            parts.append(f"| {row[0].name} |{cells}")
        parts.append(f"| **{job.reads} reads, store in the card's memory** |" + _jobs(job, "hbm"))
        parts.append(f"| **{job.reads} reads over PCIe** |" + _jobs(job, "host"))
        parts.append(f"| **{job.reads} reads from disk** |" + _jobs(job, "disk"))
    parts += [
        "",
        "What follows from it: over PCIe or from disk the kernels hide behind the copy, and reads are what counts;",
        "with the store in the card's memory, project is bound by bytes in half precision and by operations in",
        "float32, and the launch of a panel (two kernels, about 10 microseconds) must stay small beside it, which",
        "wants panels of tens of MB there.",
    ]
    return "\n".join(parts) + "\n"


def job_seconds(job: Job, card: Card, source: str) -> float | None:
    """Seconds of all reads of a job whose store comes from ``source`` ("hbm", "host", "disk"); None where it does not
    fit. Copies are hidden behind the products.
    """
    disk, host, project, _, accumulate = stages(job, card)
    compute = project.seconds + accumulate.seconds
    if source == "hbm":
        fits = job.store <= 0.9 * card.hbm_bytes
        return max(host.seconds, compute) + (job.reads - 1) * compute if fits else None
    feed = host.seconds if source == "host" else max(disk.seconds, host.seconds)
    return job.reads * max(feed, compute)


def _jobs(job: Job, source: str) -> str:
    times = [job_seconds(job, card, source) for card in CARDS]
    return "".join(f" {'does not fit' if t is None else _seconds(t)} |" for t in times)


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 1 else f"{1e3 * value:.3g} ms"


def main() -> None:
    """Print the tables; with ``--write`` also write them to ROOFLINE.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the tables next to this file")
    arguments = parser.parse_args()
    text = tables()
    print(text)
    if arguments.write:
        Path(__file__).with_name("ROOFLINE.md").write_text(text)


if __name__ == "__main__":
    main()
