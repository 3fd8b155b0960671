"""The law: panels begin at multiples of their height, hold the columns asked for and are filled up with zeros, whatever
the chunks are; so every row meets the same matrix product.
"""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.matrices import power_law, rounded, write_store

from skillaxes.store import open_store
from skillaxes.stream.files import PlainRows
from skillaxes.stream.panels import SEGMENT, PanelStream, sample_segments

N, D = 1100, 24
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return rounded(power_law(N, D, exponent=0.4), "bfloat16")


@pytest.mark.parametrize("chunk_rows", [1, 63, 64, 65, 200, 256, N])
@pytest.mark.parametrize("columns", [None, [slice(0, 24)], [slice(8, 16)], [slice(0, 4), slice(20, 24)]])
@pytest.mark.parametrize("part", [None, (64, 900)])
def test_panels(
    tmp_path: Path,
    rows: np.ndarray,
    chunk_rows: int,
    columns: list[slice] | None,
    part: tuple[int, int] | None,
) -> None:
    store = open_store(write_store(tmp_path / "store", rows, "bfloat16", chunk_rows=chunk_rows))
    used = np.concatenate([np.arange(D)[one] for one in columns or [slice(None)]])
    first, last = part or (0, N)
    stream = PanelStream(store, panel_rows=64, device=CPU, columns=columns, rows=part)
    assert (stream.n_rows, stream.n_columns) == (last - first, len(used))
    for _ in range(2):
        at = first
        for panel in stream.read():
            assert panel.start == at and panel.rows.shape == (64, len(used)) and panel.rows.dtype == torch.bfloat16
            assert panel.count == min(64, last - at)
            np.testing.assert_array_equal(
                panel.rows[: panel.count].double().numpy(), rows[at : at + panel.count][:, used]
            )
            assert not panel.rows[panel.count :].any(), "what fills up the last panel is zero"
            at += panel.count
        assert at == last
    assert stream.reads == 2
    assert stream.bytes_read == 2 * (last - first) * D * 2


def test_panels_of_several_units_some_of_which_cannot_be_mapped(
    tmp_path: Path, rows: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a panel holds stays as it is while later units are fetched, mapped or not."""
    store = open_store(write_store(tmp_path / "store", rows, "bfloat16", chunk_rows=50))
    taken: list[bool] = []
    mapped = PlainRows.mapped

    def every_other(self: PlainRows, start: int, stop: int) -> torch.Tensor | None:
        taken.append(start // 50 % 2 == 0)
        return mapped(self, start, stop) if taken[-1] else None

    monkeypatch.setattr("skillaxes.stream.reader.can_map", lambda path: True)
    monkeypatch.setattr(PlainRows, "mapped", every_other)
    stream = PanelStream(store, panel_rows=256, device=CPU)
    for panel in stream.read():
        time.sleep(0.02)  # the thread that reads ahead gets as far as it may
        seen = panel.rows[: panel.count].double().numpy()
        np.testing.assert_array_equal(seen, rows[panel.start : panel.start + panel.count])
        assert len(panel.pieces) > 1
    assert True in taken and False in taken


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("compressed", [False, True])
def test_sampled_rows(tmp_path: Path, dtype: str, compressed: bool) -> None:
    if dtype == "bfloat16" and compressed:
        pytest.skip("zarr has no bfloat16 of its own")
    rows = rounded(power_law(N, D), dtype)
    store = open_store(write_store(tmp_path / "store", rows, dtype, chunk_rows=90, compressed=compressed))
    for columns in (None, [slice(2, 5), slice(9, 24)]):
        used = np.concatenate([np.arange(D)[one] for one in columns or [slice(None)]])
        stream = PanelStream(store, panel_rows=64, device=CPU, columns=columns)
        segments = [(0, 5), (85, 200), (1099, 1100)]
        found = stream.sample(segments)
        true = np.concatenate([rows[start:stop] for start, stop in segments])[:, used]
        np.testing.assert_array_equal(found.double().numpy(), true)
        lent = PanelStream(store, panel_rows=64, device=CPU, columns=columns).sample_views(segments)
        np.testing.assert_array_equal(torch.cat(lent).double().numpy(), true)
        seen = torch.cat([panel.rows[: panel.count].clone() for panel in stream.read()])
        np.testing.assert_array_equal(seen.double().numpy(), rows[:, used])


@settings(max_examples=300, deadline=None)
@given(n=st.integers(1, 10**7), sample=st.integers(1, 4096), seed=st.integers(0, 10))
def test_the_sample_is_spread(n: int, sample: int, seed: int) -> None:
    """Disjoint runs in order, in every stretch of the store, about as many rows as were asked for."""
    segments = sample_segments(n, sample, seed)
    assert all(0 <= start < stop <= n for start, stop in segments)
    assert all(before[1] <= after[0] for before, after in pairwise(segments))
    taken = sum(stop - start for start, stop in segments)
    assert taken <= sample or sample >= n
    if sample >= n:
        assert segments == [(0, n)]
        return
    assert taken >= min(sample, SEGMENT) and taken > sample - 2 * SEGMENT
    stretch = n / len(segments)
    for number, (start, stop) in enumerate(segments):
        assert number * stretch - 1 <= start and stop <= (number + 1) * stretch + SEGMENT
    assert segments == sample_segments(n, sample, seed)


def test_another_seed_is_another_sample() -> None:
    assert sample_segments(100_000, 1536, 0) != sample_segments(100_000, 1536, 1)
