"""Sources of texts: a local file or a Hugging Face data set, read once from the front.

Record i of the source is the text of row i of the store. All wanted rows are read in one forward pass, in ascending
order, and a stream is read no further than the last of them.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from skillaxes.errors import TracesError
from skillaxes.progress import SILENT, Progress

Record = Mapping[str, Any]

_JSON_LINES = (".jsonl", ".ndjson", ".jsonl.gz")
_PARQUET = (".parquet",)


def read_traces(
    spec: str,
    rows: Sequence[int],
    take: Callable[[int, Record], None],
    *,
    n_rows: int,
    ids: Mapping[int, str] | None = None,
    progress: Progress = SILENT,
) -> None:
    """Call ``take`` with the record of each row, in ascending order, each once.

    Parameters
    ----------
    spec : a local ``.jsonl`` or ``.parquet`` file, or a Hugging Face data set ``name[:config][:split]``; the split
        is ``train`` when left out, ``name::split`` leaves out the config
    rows : the wanted rows, any order
    take : called with a row and its record
    n_rows : rows of the store; a local file must hold at least as many records
    ids : row -> trace id by the store; compared with the records' ``id`` field where they have one

    Raises
    ------
    TracesError : no such source, fewer records than rows, a record that is no object, an id that does not match
    """
    wanted = sorted(set(rows))
    ids = ids or {}

    def check(row: int, record: Any) -> None:
        if not isinstance(record, Mapping):
            raise TracesError(f"traces {spec}: record {row} is no object with fields but {type(record).__name__}")
        expected, found = ids.get(row), record.get("id")
        if expected is not None and found is not None and str(found) != expected:
            raise TracesError(
                f"traces {spec}: row {row} has id {str(found)!r}, but the store calls it {expected!r}; "
                f"give the traces in the order of the store's rows"
            )
        take(row, record)

    path = Path(spec)
    with progress.stage("traces", len(wanted), unit="traces") as stage:
        if spec.endswith(_JSON_LINES):
            records = _json_lines(path, wanted, n_rows, spec)
        elif spec.endswith(_PARQUET):
            records = _parquet(path, wanted, n_rows, spec)
        else:
            records = _data_set(spec, wanted)
        got = 0
        for row, record in records:
            check(row, record)
            got += 1
            if got % 256 == 0:
                stage.advance(256)
        stage.advance(got % 256)
    if got < len(wanted):
        raise TracesError(
            f"traces {spec}: it ends before row {wanted[got]}, but the store has {n_rows:,} rows; "
            f"record i must be the text of row i"
        )


def _json_lines(path: Path, wanted: Sequence[int], n_rows: int, spec: str) -> Iterator[tuple[int, Any]]:
    _must_exist(path, spec)
    wanted_rows = iter(wanted)
    next_row = next(wanted_rows, None)
    row = -1
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            row += 1
            if row == next_row:
                try:
                    record = json.loads(line)
                except ValueError as error:
                    raise TracesError(f"traces {spec}: line {number} is not JSON ({error})") from error
                yield row, record
                next_row = next(wanted_rows, None)
    _enough(row + 1, n_rows, spec)


def _parquet(path: Path, wanted: Sequence[int], n_rows: int, spec: str) -> Iterator[tuple[int, Any]]:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    _must_exist(path, spec)
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise TracesError(f"traces {spec}: cannot be read as parquet ({_first_line(error)})") from error
    with file:
        _enough(file.metadata.num_rows, n_rows, spec)
        rows = np.asarray(wanted, dtype=np.int64)
        first = 0
        for batch in file.iter_batches(batch_size=1024):
            if len(rows) == 0 or first > rows[-1]:
                return
            mine = rows[np.searchsorted(rows, first) : np.searchsorted(rows, first + batch.num_rows)]
            records = batch.take(pa.array(mine - first)).to_pylist() if len(mine) else []
            yield from zip(mine.tolist(), records, strict=True)
            first += batch.num_rows


def _data_set(spec: str, wanted: Sequence[int]) -> Iterator[tuple[int, Any]]:
    name, config, split = split_spec(spec)
    import datasets

    try:
        stream = datasets.load_dataset(name, config, split=split, streaming=True)
        rows = iter(wanted)
        next_row = next(rows, None)
        # From the front, without `skip`: the rows must count as they counted when the store was written.
        for row, record in enumerate(stream if next_row is not None else ()):
            if row == next_row:
                yield row, record
                next_row = next(rows, None)
                if next_row is None:
                    return
    except TracesError:
        raise
    except Exception as error:  # any loader of any data set may raise anything
        raise TracesError(
            f"traces {spec}: no local .jsonl or .parquet file, and as a Hugging Face data set "
            f"(name {name}, config {config or 'default'}, split {split}) it failed: "
            f"{type(error).__name__}: {_first_line(error)}"
        ) from error


def split_spec(spec: str) -> tuple[str, str | None, str]:
    """``name[:config][:split]`` as (name, config or None, split).

    Raises
    ------
    TracesError : more than two colons, or no name
    """
    parts = spec.split(":")
    if len(parts) > 3 or not parts[0]:
        raise TracesError(f"traces {spec!r}: needs a .jsonl or .parquet file, or a data set as name[:config][:split]")
    name, config, split = (*parts, "", "")[:3]
    return name, config or None, split or "train"


def _must_exist(path: Path, spec: str) -> None:
    if not path.is_file():
        raise TracesError(f"traces {spec}: no such file; give the texts of the store's rows as .jsonl or .parquet")


def _enough(n_records: int, n_rows: int, spec: str) -> None:
    if n_records < n_rows:
        raise TracesError(
            f"traces {spec}: {n_records:,} records for {n_rows:,} rows of the store; record i must be the text of row i"
        )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:300]
