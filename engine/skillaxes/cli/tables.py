"""What commands print on stdout: tables for people, one JSON object for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType


WIDEST = 120


def show(*parts: RenderableType) -> None:
    """Print tables and lines for people, 80 columns wide where there is no terminal.

    Strings are never broken, since they hold paths; other things are fitted to the width.
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


def directions_table(manifest: Mapping[str, Any]) -> RenderableType:
    """The directions of a run that has no labels yet."""
    rows = []
    for entry in manifest["directions"]:
        certified = entry.get("certified") or {}
        rows.append(
            [
                str(entry["index"]),
                _percent(entry["explained_variance_ratio"]),
                _optional(entry.get("residual"), ".0e"),
                _optional(entry.get("split_half"), ".2f"),
                _optional(entry.get("norm_correlation"), "+.2f"),
                _optional(entry.get("shared_top"), "g"),
                " / ".join(str(certified.get(side, "–")) for side in ("positive", "negative")),
            ]
        )
    heads = ["#", "variance", "residual", "halves", "norm", "shared", "certified +/-"]
    return plain_table(heads, rows, right=heads)


def directions_legend() -> RenderableType:
    """What the columns of :func:`directions_table` mean."""
    return _text(
        "halves: |cos| between the directions of two random halves of the rows. norm: correlation of the raw cosines "
        "with the row norm. shared: rows that the raw and the centred list have in common, of each end. certified: "
        "rows of each end that no error of the directions can change."
    )


def axes_table(manifest: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> RenderableType:
    """The named axes."""
    labels = {record["direction"]: record for record in records}
    rows = []
    for entry in manifest["directions"]:
        record = labels.get(entry["index"], {})
        pairs = (record.get("scores") or {}).get("pairs") or {}
        rows.append(
            [
                str(entry["index"]),
                _percent(entry["explained_variance_ratio"]),
                *(_pole(record, side) for side in ("positive", "negative")),
                _optional(entry.get("split_half"), ".2f"),
                _optional(pairs.get("accuracy"), ".2f"),
                "yes" if (record.get("verdict") or {}).get("survives") else "no",
            ]
        )
    heads = ["#", "var.", "positive end", "negative end", "halves", "score", "holds"]
    return plain_table(heads, rows, right=["#", "var.", "halves", "score"])


def axes_legend(records: Sequence[Mapping[str, Any]]) -> RenderableType:
    """What the columns of :func:`axes_table` mean."""
    words = any(record.get("kind") == "words" for record in records)
    what = "The words are separating words, not names. " if words else ""
    return _text(
        f"{what}halves: |cos| between the directions of two random halves of the rows. score: blind pairs of held-out "
        "traces told apart by the label, chance 0.50. holds: better than chance, text length, random directions and "
        "random orders, and reproducible."
    )


def announcements(manifest: Mapping[str, Any]) -> RenderableType | None:
    """What must be said, one sentence each; None where there is nothing."""
    said = manifest.get("announcements") or []
    if not said:
        return None
    return pairs_table([(entry["kind"].replace("_", " "), entry["text"]) for entry in said])


def plan_table(plan: Mapping[str, Any]) -> RenderableType:
    """What a job would do."""
    from skillaxes.memory import show as size

    held = plan["memory"]
    reads = plan["reads"]
    parts = [(name, held[name]) for name in ("interpreter", "buffers", "panel", "basis", "sample", "rows", "cache")]
    if not held["spilled"]:
        parts.append(("projections", held["projections"]))
    spilled = f"; {size(held['projections'])} of projections go to --scratch" if held["spilled"] else ""
    return pairs_table(
        [
            ("matrix", f"{plan['n_rows']:,} rows x {plan['n_columns']:,} columns, {plan['read_path']}"),
            ("solver", f"{plan['solver']}: {'; '.join(plan['reasons'])}"),
            ("device", f"{plan['device']} ({plan['device_reason']})"),
            ("products", plan["products"]),
            ("reads", f"{reads:g} expected, {size(plan['bytes_to_read'])} from the store"),
            ("memory", f"{size(held['total'])} of {size(held['budget'])}{spilled}"),
            *((f"  {name}", size(value)) for name, value in parts),
            *_gpu_lines(plan),
            *_outlook_lines(plan),
        ]
    )


def _gpu_lines(plan: Mapping[str, Any]) -> list[tuple[str, str]]:
    from skillaxes.memory import show as size

    gpu = plan["gpu"]
    if gpu is None:
        return []
    return [
        ("GPU memory", f"{size(gpu['free'])} free of {size(gpu['total'])}"),
        ("  working", size(gpu["working"] + gpu["ring"])),
        ("  rows kept", f"{size(gpu['kept'])}: {gpu['kept_rows']:,} of {plan['n_rows']:,} rows are copied once"),
        ("GPUDirect", plan["gds"]),
    ]


def _outlook_lines(plan: Mapping[str, Any]) -> list[tuple[str, str]]:
    from skillaxes.memory import show as size

    seen = plan["outlook"]
    if seen is None:
        return []
    first, last = plan["rows"]
    said = {
        "storage": "the file system gives no more",
        "traffic": "numbers travel for longer than a process takes for its rows",
        "stragglers": "chunks are too few to share evenly",
    }
    met = [(at, f"from {at:,}: {said[name]}") for name, at in seen["limits"].items() if at is not None]
    rates, measured = seen["rates"], seen["rates"]["read"]
    speed = measured or rates["storage"]
    from_what = f"{speed / 1e9:.3g} GB/s {'a process, measured' if measured else 'a disk'}"
    return [
        ("processes", f"{plan['processes']}; rows {first:,} to {last - 1:,} are the first one's"),
        (
            "  time",
            f"{seen['total']:.3g} s for the reads, {seen['alone']:.3g} s alone ({from_what}, "
            f"{rates['network'] / 1e9:g} GB/s network; --rate states others)",
        ),
        ("  traffic", f"{size(seen['traffic_bytes'])} a read from each process, {seen['traffic']:.2g} s of it"),
        ("  limits", "; ".join(text for _, text in sorted(met)) or "none up to as many processes as there are chunks"),
    ]


def estimate_table(estimate: Mapping[str, Any]) -> RenderableType:
    """What labeling would send and cost."""
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


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}%"


def _optional(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _pole(record: Mapping[str, Any], side: str) -> str:
    if record.get("status") == "labelled":
        return ", ".join(record["keywords"].get(side) or ["–"])
    failure = record.get("failure") or {}
    return f"({failure.get('kind') or record.get('status') or 'no label'})"
