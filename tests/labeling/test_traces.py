"""Record i of the source is the text of row i: from every kind of source the same records come, in one forward pass,
and nothing behind the last wanted row is read from a stream. What does not fit the rows is one line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skillaxes.errors import TracesError
from skillaxes.labeling.traces import read_traces, split_spec

RECORDS = [{"id": f"t{i}", "text": f"text {i}"} for i in range(3000)]
WANTED = [2999, 0, 7, 1024, 1023, 7, 2048]


def collect(spec: str, rows: list[int], **options: Any) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    options = {"n_rows": 3000, **options}
    read_traces(spec, rows, lambda row, record: found.append((row, record["text"])), **options)
    return found


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("sources")
    lines = "".join(json.dumps(record) + "\n" for record in RECORDS)
    (folder / "a.jsonl").write_text(lines)
    with gzip.open(folder / "a.jsonl.gz", "wt") as file:
        file.write(lines)
    pq.write_table(pa.Table.from_pylist(RECORDS), folder / "a.parquet", row_group_size=700)
    data_set = folder / "data_set"
    data_set.mkdir()
    (data_set / "train.jsonl").write_text(lines)
    return {
        "jsonl": str(folder / "a.jsonl"),
        "gz": str(folder / "a.jsonl.gz"),
        "parquet": str(folder / "a.parquet"),
        "data set": str(data_set),
    }


@pytest.mark.parametrize("kind", ["jsonl", "gz", "parquet", "data set"])
def test_every_source_gives_the_same(sources: dict[str, str], kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert collect(sources[kind], WANTED) == [(row, f"text {row}") for row in sorted(set(WANTED))]


@pytest.mark.parametrize("kind", ["jsonl", "gz", "parquet", "data set"])
def test_fewer_records_than_rows(sources: dict[str, str], kind: str) -> None:
    with pytest.raises(TracesError) as error:
        collect(sources[kind], [1, 3000], n_rows=3001)
    message = str(error.value)
    assert ("3,000 records for 3,001 rows" in message or "ends before row 3000" in message) and "\n" not in message
    assert error.value.exit_code == 2


def test_a_local_file_is_counted_to_its_end(sources: dict[str, str]) -> None:
    with pytest.raises(TracesError, match="3,000 records for 3,001 rows"):
        collect(sources["jsonl"], [1], n_rows=3001)


def test_a_stream_is_not_read_further_than_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[Any] = []

    def stream() -> Any:
        for i, record in enumerate(RECORDS):
            assert i <= 20
            yield record

    def load_dataset(name: str, config: str | None, **options: Any) -> Any:
        asked.append((name, config, options))
        return stream()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert collect("some/set:SFT:math", [20, 3]) == [(3, "text 3"), (20, "text 20")]
    assert asked == [("some/set", "SFT", {"split": "math", "streaming": True})]


def test_specs() -> None:
    assert split_spec("a/b") == ("a/b", None, "train")
    assert split_spec("a/b:SFT") == ("a/b", "SFT", "train")
    assert split_spec("a/b:SFT:math") == ("a/b", "SFT", "math")
    assert split_spec("a/b::test") == ("a/b", None, "test")
    with pytest.raises(TracesError, match=r"name\[:config\]\[:split\]"):
        split_spec("a:b:c:d")


def test_ids_are_held_against_the_store(sources: dict[str, str]) -> None:
    ids = {row: f"t{row}" for row in WANTED}
    assert collect(sources["jsonl"], WANTED, ids=ids)
    ids[1023] = "t9"
    with pytest.raises(TracesError, match="row 1023 has id 't1023', but the store calls it 't9'"):
        collect(sources["jsonl"], WANTED, ids=ids)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a"}\n{"text": \n', "line 2 is not JSON"),
        ('{"text": "a"}\n[1]\n', "record 1 is no object with fields but list"),
    ],
)
def test_broken_records_are_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "b.jsonl"
    path.write_text(content)
    with pytest.raises(TracesError, match=message):
        collect(str(path), [0, 1], n_rows=2)


def test_sources_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(TracesError, match="no such file"):
        collect(str(tmp_path / "none.jsonl"), [0])
    (tmp_path / "broken.parquet").write_bytes(b"nothing")
    with pytest.raises(TracesError, match="cannot be read as parquet"):
        collect(str(tmp_path / "broken.parquet"), [0])
    with pytest.raises(TracesError, match="as a Hugging Face data set") as error:
        collect(str(tmp_path / "nowhere"), [0])
    assert "\n" not in str(error.value)


def test_blank_lines_are_no_records(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text('{"text": "a"}\n\n{"text": "b"}\n\n')
    assert collect(str(path), [0, 1], n_rows=2) == [(0, "a"), (1, "b")]
