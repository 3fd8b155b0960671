"""Output of the commands on stdout: tables for people, one JSON object for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from skillaxes import memory
from skillaxes.run_folder.labels import LABELLED, WORDS
from skillaxes.run_folder.schema import SHOWN_STATS, SIDES, DirectionStats, Manifest, direction_stats

if TYPE_CHECKING:
    from rich.console import RenderableType

WIDEST = 120  # columns of a terminal that are used
_TITLES = {name: stat.title for name, stat in SHOWN_STATS.items() if stat.title}  # of numbers that have a column


def show(*parts: RenderableType) -> None:
    """Print tables and lines for people, 80 columns wide where there is no terminal.

    Strings are never broken, since they hold paths; tables are fitted to the width.
    """
    from rich.console import Console

    console = Console(highlight=False)
    console.width = min(console.width, WIDEST)
    for part in parts:
        if isinstance(part, str):
            print(part)
        elif console.is_terminal:
            console.print(part)
        else:
            with console.capture() as captured:
                console.print(part)
            print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def show_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object."""
    print(json.dumps(value, indent=1, default=_plain, allow_nan=False))


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        return value.item()
    return list(value) if isinstance(value, set | frozenset | tuple) else str(value)


def plain_table(heads: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> RenderableType:
    """A table without frames; columns named in ``right`` are right-aligned, the last one takes what is left."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for head in heads:
        numeric = head in right
        table.add_column(head, justify="right" if numeric else "left", no_wrap=numeric, overflow="fold")
    for row in rows:
        table.add_row(*(_text(cell) for cell in row))
    return table


def _text(cell: str) -> Any:
    from rich.text import Text

    return Text(cell)  # never markup: [1-digit] is a word here


def pairs_table(entries: Sequence[tuple[str, str]]) -> RenderableType:
    """Names and values, one below the other."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in entries:
        table.add_row(name, _text(value))
    return table


def directions_table(manifest: Manifest) -> RenderableType:
    """The directions of a run that has no labels yet: a column for each number that has a title."""
    heads = ["#", *_TITLES.values()]
    rows = [[str(one.index), *(_cell(one, name) for name in _TITLES)] for one in direction_stats(manifest)]
    return plain_table(heads, rows, right=heads)


def directions_legend() -> RenderableType:
    """The meaning of the columns of :func:`directions_table`."""
    return _text(" ".join(_help(name) for name in _TITLES if SHOWN_STATS[name].help))


def _cell(direction: DirectionStats, name: str) -> str:
    return SHOWN_STATS[name].cell(getattr(direction, name))


def _help(name: str) -> str:
    return f"{_TITLES[name]}: {SHOWN_STATS[name].help}."


def label_table(manifest: Manifest, records: Sequence[Mapping[str, Any]]) -> RenderableType:
    """The directions with their labels.

    Parameters
    ----------
    records : of ``labels.jsonl``
    """
    labels = {record["direction"]: record for record in records}
    rows = []
    for one in direction_stats(manifest):
        record = labels.get(one.index, {})
        accuracy = ((record.get("scores") or {}).get("pairs") or {}).get("accuracy")
        rows.append(
            [
                str(one.index),
                _cell(one, "explained_variance_ratio"),
                *(keywords(record, side) for side in SIDES),
                _cell(one, "split_half"),
                "–" if accuracy is None else f"{accuracy:.2f}",
                "yes" if (record.get("verdict") or {}).get("survives") else "no",
            ]
        )
    halves = _TITLES["split_half"]
    heads = ["#", "var.", *(f"{side} end" for side in SIDES), halves, "score", "holds"]
    return plain_table(heads, rows, right=["#", "var.", halves, "score"])


def label_legend(records: Sequence[Mapping[str, Any]]) -> RenderableType:
    """The meaning of the columns of :func:`label_table`."""
    words = any(record.get("kind") == WORDS for record in records)
    remark = "The words are separating words, not names. " if words else ""
    return _text(
        f"{remark}{_help('split_half')} score: blind pairs of held-out traces told apart by the label, chance 0.50. "
        "holds: better than chance, text length, random directions and random orders, and reproducible."
    )


def keywords(record: Mapping[str, Any], side: str) -> str:
    """The words of a label for one side; the failure or the status in brackets where there are none."""
    if record.get("status") == LABELLED:
        return ", ".join(record["keywords"].get(side) or ["–"])
    failure = record.get("failure") or {}
    return f"({failure.get('kind') or record.get('status') or 'no label'})"


def diagnostics_table(manifest: Manifest) -> RenderableType | None:
    """The diagnostics of a run, one sentence each; None where there are none."""
    found = manifest.get("diagnostics") or []
    return pairs_table([(one["kind"].replace("_", " "), one["text"]) for one in found]) if found else None


def plan_table(plan: Mapping[str, Any]) -> RenderableType:
    """The plan of a job."""
    held = plan["memory"]
    reads = plan["reads"]
    parts = [(name, held[name]) for name in ("interpreter", "buffers", "panel", "basis", "sample", "rows", "cache")]
    if not held["spilled"]:
        parts.append(("projections", held["projections"]))
    spilled = f"; {memory.show(held['projections'])} of projections go to --scratch" if held["spilled"] else ""
    return pairs_table(
        [
            ("matrix", f"{plan['n_rows']:,} rows x {plan['n_columns']:,} columns, {plan['read_path']}"),
            ("solver", f"{plan['solver']}: {'; '.join(plan['reasons'])}"),
            ("device", f"{plan['device']} ({plan['device_reason']})"),
            ("products", plan["products"]),
            ("reads", f"{reads:g} expected, {memory.show(plan['bytes_to_read'])} from the store"),
            ("memory", f"{memory.show(held['total'])} of {memory.show(held['budget'])}{spilled}"),
            *((f"  {name}", memory.show(value)) for name, value in parts),
            *_gpu_lines(plan),
            *_outlook_lines(plan),
        ]
    )


def _gpu_lines(plan: Mapping[str, Any]) -> list[tuple[str, str]]:
    gpu = plan["gpu"]
    if gpu is None:
        return []
    return [
        ("GPU memory", f"{memory.show(gpu['free'])} free of {memory.show(gpu['total'])}"),
        ("  working", memory.show(gpu["working"] + gpu["ring"])),
        ("  rows kept", f"{memory.show(gpu['kept'])}: {gpu['kept_rows']:,} of {plan['n_rows']:,} rows are copied once"),
        ("GPUDirect", plan["gds"]),
    ]


def _outlook_lines(plan: Mapping[str, Any]) -> list[tuple[str, str]]:
    forecast = plan["outlook"]
    if forecast is None:
        return []
    first, last = plan["rows"]
    reasons = {
        "storage": "the file system gives no more",
        "traffic": "numbers travel for longer than a process takes for its rows",
        "stragglers": "chunks are too few to share evenly",
    }
    limits = [(at, f"from {at:,}: {reasons[name]}") for name, at in forecast["limits"].items() if at is not None]
    rates, measured = forecast["rates"], forecast["rates"]["read"]
    speed = measured or rates["storage"]
    source = f"{speed / 1e9:.3g} GB/s {'a process, measured' if measured else 'a disk'}"
    return [
        ("processes", f"{plan['processes']}; rows {first:,} to {last - 1:,} are the first one's"),
        (
            "  time",
            f"{forecast['total']:.3g} s for the reads, {forecast['alone']:.3g} s alone ({source}, "
            f"{rates['network'] / 1e9:g} GB/s network; --rate states others)",
        ),
        (
            "  traffic",
            f"{memory.show(forecast['traffic_bytes'])} a read from each process, {forecast['traffic']:.2g} s of it",
        ),
        (
            "  limits",
            "; ".join(text for _, text in sorted(limits)) or "none up to as many processes as there are chunks",
        ),
    ]


def estimate_table(estimate: Mapping[str, Any]) -> RenderableType:
    """Requests, tokens and cost of labeling, estimated."""
    cost, limit = estimate["cost"], estimate["max_cost"]
    price = "unknown: the model is not in the price table" if cost is None else f"about {cost:.2f} dollars"
    entries = [
        ("labeler", " ".join(str(part) for part in (estimate["labeler"], estimate["model"]) if part)),
        (
            "labels and scores of",
            f"{estimate['directions']} directions, {estimate['random_directions']} random directions, "
            f"{estimate['random_orders']} random orders",
        ),
        ("requests", f"{estimate['labels']:,} for labels, {estimate['judgements']:,} for scores"),
        ("tokens", f"about {estimate['input_tokens']:,} in, {estimate['output_tokens']:,} out"),
        ("cost", price + (f", stopped at {limit:g}" if limit is not None else "")),
        *(("note", note) for note in estimate["notes"]),
    ]
    return pairs_table(entries)
