"""``skillaxes ingest`` and ``inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from skillaxes import memory
from skillaxes.cli import tables
from skillaxes.cli.options import AsJson, Overwrite, Quiet, Store
from skillaxes.cli.progress import make_progress
from skillaxes.config import parse_bytes, parse_layer_ids
from skillaxes.ingest.readers import READERS
from skillaxes.ingest.trace_ids import ID_READERS

_FORMATS = ", ".join(f"{reader.suffixes[0]} ({reader.content})" for reader in READERS)


def ingest(
    source: Annotated[
        Path,
        typer.Argument(metavar="SOURCE", help=f"A file of activations: {_FORMATS}."),
    ],
    store: Annotated[Path, typer.Argument(metavar="STORE", help="The zarr store to make.")],
    key: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which array of the file, or the list column of a table.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(metavar="NAME", help="float16, bfloat16, float32 or float64. [default: as the file]")
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option("--layer-ids", metavar="IDS", help="The model's layer numbers, in column order: 3,7,11."),
    ] = None,
    hidden: Annotated[int | None, typer.Option(metavar="N", help="Columns of one layer.")] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="The model the activations come from.")] = None,
    revision: Annotated[str | None, typer.Option(metavar="ID", help="Its commit or version.")] = None,
    hook: Annotated[str | None, typer.Option(metavar="TEXT", help="Where in a layer: 'residual stream'.")] = None,
    pooling: Annotated[str | None, typer.Option(metavar="TEXT", help="How tokens became one row: 'mean'.")] = None,
    token_range: Annotated[
        str | None, typer.Option(metavar="TEXT", help="The tokens a row has seen, FIRST:STOP as in Python, or a text.")
    ] = None,
    trace_ids: Annotated[
        Path | None, typer.Option(metavar="FILE", help=f"A file with one id a row: {', '.join(ID_READERS)}.")
    ] = None,
    id_field: Annotated[
        str | None, typer.Option(metavar="NAME", help="The field or column that holds the ids.")
    ] = None,
    chunk_rows: Annotated[
        int | None, typer.Option(metavar="N", help="Rows a chunk. [default: chunks of 8 to 32 MiB]")
    ] = None,
    shard_size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Put chunks together into files of this size: 1GiB.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Turn a file of activations into a store, and verify it."""
    from skillaxes.ingest import ingestion

    made = ingestion.ingest(
        source,
        store,
        key=key,
        dtype=dtype,
        layer_ids=None if layers is None else parse_layer_ids("--layer-ids", layers),
        hidden=hidden,
        model=model,
        revision=revision,
        hook=hook,
        pooling=pooling,
        token_range=_token_range(token_range),
        trace_ids=trace_ids,
        id_field=id_field,
        chunk_rows=chunk_rows,
        shard_size=None if shard_size is None else parse_bytes("--shard-size", shard_size),
        overwrite=overwrite,
        progress=make_progress(quiet),
    )
    if as_json:
        tables.show_json(made.as_dict())
        return
    shape = " x ".join(f"{extent:,}" for extent in made.shape)
    tables.show(
        f"{made.store}: {shape} {made.dtype}, {memory.show(made.nbytes)} in {made.n_chunks:,} chunks of "
        f"{made.chunk_rows:,} rows, verified"
    )
    if made.bad_rows:
        first = ", ".join(f"{row:,}" for row in made.first_bad_rows[:8])
        tables.show(f"{made.bad_rows:,} rows hold NaN or infinity ({first}): discover needs --bad-rows skip")


def inspect(
    store: Store,
    scan: Annotated[
        bool, typer.Option("--scan", help="Read every row: norms, bad rows, rows of zeros, energy by layer.")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Describe a store."""
    from skillaxes.store import describe

    found = describe.inspect(store, scan=scan, progress=make_progress(quiet))
    if as_json:
        tables.show_json(found)
    else:
        tables.show(tables.pairs_table(list(_lines(found))))


def _lines(found: dict[str, Any], indent: str = "") -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    for name, value in found.items():
        label = indent + name.replace("_", " ")
        if isinstance(value, dict):
            lines += [(label, ""), *_lines(value, indent + "  ")]
        else:
            lines.append((label, _cell(name, value)))
    return lines


def _cell(name: str, value: Any) -> str:
    if name == "bytes":
        return memory.show(value)
    if name == "token_range" and isinstance(value, list):
        return f"{value[0]} to the end" if value[1] is None else f"{value[0]} to {value[1] - 1}"
    if name == "shape" and isinstance(value, list):
        return " x ".join(map(_text, value))
    return _text(value)


def _text(value: Any) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return ", ".join(_text(part) for part in value) or "none"
    return str(value)


def _token_range(text: str | None) -> str | tuple[int, int | None] | None:
    """``"1:160"`` as ``(1, 160)``, stop excluded, ``"1:"`` as ``(1, None)``; any other text as it is."""
    first, colon, stop = (part.strip() for part in (text or "").partition(":"))
    if not colon or not first.isdigit() or not (stop.isdigit() or not stop):
        return text
    return int(first), int(stop) if stop else None
