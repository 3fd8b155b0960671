"""Laws of a DevicePrefetcher, as functions of the module that has it: the real one, or one with an error in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torch
from device_double import MatrixSource, QueuedStreams
from torch import Tensor

N_FEATURES = 12


@dataclass(frozen=True)
class Case:
    """A read: of how many rows, in what units and panels, of which columns, with how many rows kept on the device."""

    n_rows: int = 100
    fetch_rows: int = 17
    panel_rows: int = 8
    columns: tuple[slice, ...] = (slice(0, N_FEATURES),)
    kept_rows: int = 0
    on_device: bool = False
    first_row: int = 0


CASES = {
    "units of two panels": Case(),
    "units smaller than panels": Case(fetch_rows=3, panel_rows=16),
    "one unit": Case(fetch_rows=100),
    "one panel": Case(n_rows=5, panel_rows=64),
    "no row over": Case(n_rows=96, fetch_rows=16),
    "some columns": Case(columns=(slice(1, 4), slice(6, 11))),
    "some columns, one part": Case(columns=(slice(4, 8),), fetch_rows=5),
    "some rows stay": Case(kept_rows=40),
    "all rows stay": Case(kept_rows=200),
    "some columns of some rows stay": Case(columns=(slice(1, 4), slice(6, 11)), kept_rows=40),
    "units on the device": Case(on_device=True, kept_rows=24),
    "a part of a store": Case(first_row=1000, kept_rows=24),
    "some columns of units on the device": Case(on_device=True, columns=(slice(1, 4), slice(6, 11))),
}


def matrix_of(case: Case) -> Tensor:
    return torch.randn((case.n_rows, N_FEATURES), generator=torch.Generator().manual_seed(case.n_rows))


def wanted_of(case: Case) -> Tensor:
    return torch.cat([matrix_of(case)[:, part] for part in case.columns], dim=1)


def make_prefetcher(module: ModuleType, case: Case, streams: QueuedStreams) -> tuple[object, MatrixSource]:
    width = sum(part.stop - part.start for part in case.columns)
    prefetcher = module.DevicePrefetcher(
        streams,
        rows=(case.first_row, case.first_row + case.n_rows),
        columns=case.columns,
        n_features=N_FEATURES,
        panel_rows=case.panel_rows,
        dtype=torch.float32,
        resident_bytes=case.kept_rows * width * 4,
    )
    return prefetcher, MatrixSource(
        matrix_of(case), case.fetch_rows, on_device=case.on_device, first_row=case.first_row
    )


def collect(prefetcher, source: MatrixSource, streams: QueuedStreams, stop_after: int | None = None) -> Tensor:
    """What the kernels see of every row in one read, NaN where they see nothing."""
    wanted = torch.full((len(source.matrix), prefetcher._width), torch.nan)
    reading = prefetcher.read(source, verify=False)
    for number, panel in enumerate(reading, 1):
        streams.compute(_look(panel, wanted, panel.start - source.first_row))
        if number == stop_after:
            reading.close()
    source.vanish()
    return wanted


def _look(panel, into: Tensor, at: int) -> Callable[[], None]:
    def look() -> None:
        padding = panel.rows[panel.count :]
        seen = panel.rows[: panel.count] if bool((padding == 0).all()) else torch.nan
        into[at : at + panel.count] = seen

    return look


def every_read_sees_every_row(module: ModuleType, schedule: str) -> None:
    for case in CASES.values():
        streams = QueuedStreams(schedule)
        prefetcher, source = make_prefetcher(module, case, streams)
        seen = [collect(prefetcher, source, streams) for _ in range(3)]
        streams.finish()
        for number, rows in enumerate(seen):
            assert torch.equal(rows, wanted_of(case)), f"read {number + 1}"


def a_read_given_up_spoils_nothing(module: ModuleType, schedule: str) -> None:
    for case in CASES.values():
        for stop_after in (1, 4):
            streams = QueuedStreams(schedule)
            prefetcher, source = make_prefetcher(module, case, streams)
            first = collect(prefetcher, source, streams, stop_after)
            second = collect(prefetcher, source, streams)
            streams.finish()
            assert torch.equal(second, wanted_of(case))
            known = ~first.isnan().any(dim=1)
            assert int(known.sum()) == min(stop_after * case.panel_rows, case.n_rows)
            assert torch.equal(first[known], wanted_of(case)[known])


def kept_rows_come_back(module: ModuleType, schedule: str) -> None:
    case = CASES["some columns of some rows stay"]
    streams = QueuedStreams(schedule)
    prefetcher, source = make_prefetcher(module, case, streams)
    assert prefetcher.rows(0, 1) is None
    collect(prefetcher, source, streams)
    assert torch.equal(prefetcher.rows(3, 40), wanted_of(case)[3:40])
    assert prefetcher.rows(39, 41) is None


LAWS = (every_read_sees_every_row, a_read_given_up_spoils_nothing, kept_rows_come_back)
