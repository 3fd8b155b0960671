"""Makers for the labeling tests: a selection by the schema from any matrix of scores, and small sets of traces."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import chat_server as chat

from skillaxes.run_folder import schema
from skillaxes.run_folder.tables import arrow_schema


def selection_columns(
    scores: np.ndarray, norms: np.ndarray, ids: Sequence[str] | None, kind: str, top: int, pool: int, sample: np.ndarray
) -> dict[str, list[Any]]:
    """The columns of selection.parquet for the directions behind ``scores``, of shape (n_rows, n_directions)."""
    columns: dict[str, list[Any]] = {column.name: [] for column in schema.SELECTION_COLUMNS}

    def add(role: str, direction: int, side: str | None, rows: np.ndarray, first: int = 0) -> None:
        columns["kind"] += [kind] * len(rows)
        columns["role"] += [role] * len(rows)
        columns["direction"] += [direction] * len(rows)
        columns["side"] += [side] * len(rows)
        columns["position"] += range(first, first + len(rows))
        columns["row"] += rows.tolist()
        columns["trace_id"] += [None if ids is None else ids[row] for row in rows]
        columns["cosine"] += scores[rows, direction].tolist()
        columns["norm"] += norms[rows].tolist()

    n_rows = len(scores)
    pool = min(max(pool, top), n_rows // 2)
    for direction in range(scores.shape[1]):
        order = np.argsort(-scores[:, direction], kind="stable")
        ends = {schema.POSITIVE: order[:pool], schema.NEGATIVE: order[::-1][:pool]}
        for side, rows in ends.items():
            add(schema.SHOWN, direction, side, rows[:top])
            add(schema.HELD_OUT, direction, side, rows[top:], top)
        between = order[pool : n_rows - pool]
        quantiles = np.linspace(0, len(between) - 1, min(pool, len(between))).astype(int)
        add(schema.MIDDLE, direction, None, between[quantiles])
        add(schema.SAMPLE, direction, None, sample)
    return columns


def write_selection(
    run_dir: Path,
    scores: np.ndarray,
    *,
    random_scores: np.ndarray | None = None,
    norms: np.ndarray | None = None,
    ids: Sequence[str] | None = None,
    top: int = 10,
    pool: int = 200,
    split_half: Sequence[float | None] | None = None,
    token_range: Any = None,
) -> Path:
    """A run folder that holds nothing but selection.parquet."""
    n_rows = len(scores)
    norms = np.ones(n_rows) if norms is None else norms
    sample = np.arange(n_rows) if n_rows <= 20_000 else np.sort(np.random.default_rng(0).permutation(n_rows)[:20_000])
    columns = selection_columns(scores, norms, ids, schema.COMPONENT, top, pool, sample)
    if random_scores is not None:
        random = selection_columns(random_scores, norms, ids, schema.RANDOM, top, pool, sample)
        columns = {name: columns[name] + random[name] for name in columns}
    meta = {
        "n_rows": n_rows,
        "rank_by": schema.RAW_COSINE,
        "top": top,
        "pool": min(max(pool, top), n_rows // 2),
        "split_half": list(split_half) if split_half is not None else [None] * scores.shape[1],
        "token_range": token_range,
        "store": {"fingerprint": None, "model": None, "revision": None, "hook": None, "pooling": None},
    }
    with_meta = arrow_schema(schema.SELECTION_COLUMNS).with_metadata({schema.SELECTION_META: json.dumps(meta).encode()})
    run_dir.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns, schema=with_meta), run_dir / schema.SELECTION)
    return run_dir


def exact_scores(matrix: np.ndarray, k: int, n_random: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Raw cosines with the principal directions, with random ones, and the row norms, all in float64.

    A block Krylov basis of five blocks is as good as an eigendecomposition here, and takes seconds.
    """
    raw = np.asarray(matrix, dtype=np.float64)
    centred = raw - raw.mean(0)
    random = np.random.default_rng(0)
    block = random.standard_normal((raw.shape[1], 4 * k))
    basis = []
    for _ in range(5):
        block = np.linalg.qr(centred.T @ (centred @ block))[0]
        basis.append(block)
    basis = np.linalg.qr(np.concatenate(basis, axis=1))[0]
    projected = centred @ basis
    _, vectors = np.linalg.eigh(projected.T @ projected)
    directions = basis @ vectors[:, ::-1][:, :k]
    directions *= np.sign(directions[np.abs(directions).argmax(0), np.arange(k)])
    others = random.standard_normal((raw.shape[1], n_random))
    others /= np.linalg.norm(others, axis=0)
    norms = np.linalg.norm(raw, axis=1)
    return raw @ directions / norms[:, None], raw @ others / norms[:, None], norms


def write_traces(path: Path, records: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


@dataclass(frozen=True)
class Folder:
    """A run folder and its traces."""

    run_dir: Path
    traces: Path


def _letters(number: int) -> str:
    return chr(97 + number % 26) + "z" * (number // 26)


def make_folder(
    path: Path,
    *,
    n_rows: int = 240,
    directions: int = 2,
    randoms: int = 3,
    top: int = 5,
    pool: int = 60,
    seed: int = 0,
    text: Callable[[int, np.ndarray], str] | None = None,
    **selection: Any,
) -> Folder:
    """Directions that mean something: a text holds the word ``upward0`` (``downward0``) the more often, the higher
    (lower) its score on direction 0, and so on."""
    random = np.random.default_rng(seed)
    scores = random.uniform(-1, 1, (n_rows, directions)).astype(np.float32)
    filler = [f"w{chr(97 + i)}{chr(97 + j)}x" for i in range(26) for j in range(26)]

    def default(row: int, mine: np.ndarray) -> str:
        words = list(random.choice(filler, 12))
        for direction, score in enumerate(mine):
            count = int(abs(score) * 4)
            words += [f"{'upward' if score > 0 else 'downward'}{_letters(direction)}"] * count
        return " ".join(random.permutation(words))

    make = text or default
    records = [
        {
            "id": f"t{row:05d}",
            "kind": "even" if row % 2 == 0 else "odd",
            "input": [{"role": "user", "content": make(row, scores[row])}],
            "output": str(row),
        }
        for row in range(n_rows)
    ]
    write_selection(
        path / "run",
        scores,
        random_scores=random.uniform(-1, 1, (n_rows, randoms)).astype(np.float32) if randoms else None,
        ids=[record["id"] for record in records],
        top=top,
        pool=pool,
        norms=random.uniform(1, 2, n_rows),
        **selection,
    )
    return Folder(path / "run", write_traces(path / "traces.jsonl", records))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Two directions over 240 rows."""
    return make_folder(tmp_path)


@pytest.fixture
def folder_of() -> Callable[..., Folder]:
    return make_folder


@pytest.fixture
def chat_module() -> Any:
    """Classes of the fake server: ``Answer``, ``Request``, ``honest``."""
    return chat


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Starts fake servers; sets a key and takes away every wait between the client's retries."""
    import openai._base_client

    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-of-the-tests-0123456789")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(openai._base_client, "INITIAL_RETRY_DELAY", 0.001)
    monkeypatch.setattr(openai._base_client, "MAX_RETRY_DELAY", 0.002)
    servers = []

    def start(behave: Callable[[Any], Any] = chat.honest) -> Any:
        servers.append(chat.ChatServer(behave))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(scope="session")
def selection_writer() -> Callable[..., Path]:
    return write_selection


@pytest.fixture(scope="session")
def exact_cosines() -> Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray]]:
    return exact_scores
