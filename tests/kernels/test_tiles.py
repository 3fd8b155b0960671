"""The law: tiles cover every row and column once, no split is empty, and the choice is a pure function of the shape."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from skillaxes_kernels.backends.triton import accumulate_tiles, directions_block, project_tiles

_DTYPES = st.sampled_from([torch.float16, torch.bfloat16, torch.float32])


@given(st.integers(1, 70_000), st.integers(1, 130_000), st.integers(1, 128), _DTYPES, st.integers(1, 160))
def test_splits_cover_the_summed_axis(b, d, n, dtype, processors) -> None:
    first, second = project_tiles(b, d, n, dtype, 1, processors), accumulate_tiles(b, d, n, dtype, processors)
    for tiles, n_tiles in ((first, -(-d // first.columns)), (second, -(-b // second.rows))):
        assert (tiles.splits - 1) * tiles.tiles_per_split < n_tiles <= tiles.splits * tiles.tiles_per_split
        assert tiles.directions & (tiles.directions - 1) == 0 and tiles.directions >= 16
        assert 2 <= tiles.num_stages <= 4


def test_tall_panels_by_rows_short_ones_by_columns() -> None:
    assert project_tiles(65_536, 4_096, 48, torch.float16, 1, 132).splits <= 2
    assert project_tiles(1_024, 30_720, 48, torch.float16, 1, 132).splits > 32
    assert accumulate_tiles(400, 30_720, 48, torch.float16, 132).splits == 1
    assert accumulate_tiles(65_536, 576, 48, torch.float16, 132).splits > 8


def test_padded_directions() -> None:
    assert [directions_block(n) for n in (1, 16, 17, 48, 64, 65, 128, 500)] == [16, 16, 32, 64, 64, 128, 128, 128]
