"""The page: head, what must be said first, an overview, one section a direction, how it was made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

from skillaxes.memory import show as size
from skillaxes.report import charts
from skillaxes.report.html import Markup, element, joined
from skillaxes.report.numbers import duration, percent
from skillaxes.report.parts import pole, stability_of, verdict_of
from skillaxes.report.section import direction_section
from skillaxes.run_folder.contents import Contents, Direction
from skillaxes.run_folder.formats import SIDES

_HEADINGS = {
    "mean_direction": "Mean direction",
    "layer_scale": "Layer scale",
    "norm": "Row norm",
    "length": "Length",
    "stability": "Stability",
    "zero_rows": "Rows of zeros",
    "bad_rows": "Rows left out",
    "not_converged": "Not converged",
}
# No script, no image, no font, no connection: the page is what it is, offline and in an archive.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def render(contents: Contents) -> str:
    """A run folder as one self-contained HTML page."""
    title = _title(contents)
    style = resources.files("skillaxes.report").joinpath("style.css").read_text(encoding="utf-8")
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Markup(style)),
    )
    body = element("body", _top(contents, title), _main(contents), _footer(contents))
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def _title(contents: Contents) -> str:
    model = contents.manifest.get("store", {}).get("model")
    return f"Skill axes of {model}" if model else "Skill axes"


def _top(contents: Contents, title: str) -> Markup:
    manifest = contents.manifest
    store, rows = manifest.get("store", {}), manifest.get("rows", {})
    columns = (manifest.get("plan") or {}).get("n_columns") or store.get("n_features") or 0
    ranked = rows.get("ranked", store.get("n_rows", 0))
    lead = (
        f"{len(contents.directions)} principal directions of {ranked:,} traces in {columns:,} dimensions, and the "
        f"traces at both ends of each, ranked by {contents.rank_by.replace('-', ' ')}."
    )
    return element("header", element("h1", title), element("p", lead, class_="lead"), _facts(contents), class_="top")


def _facts(contents: Contents) -> Markup:
    manifest = contents.manifest
    store, solver, config = (manifest.get(name) or {} for name in ("store", "solver", "config"))
    layers = (manifest.get("layers") or {}).get("ids")
    shape = " × ".join(f"{extent:,}" for extent in store.get("shape", []))
    entries: list[tuple[str, object]] = [
        ("Store", store.get("path")),
        ("Shape", f"{shape} {store.get('dtype', '')}".strip() or None),
        ("Model", _known(store.get("model"), store.get("revision"))),
        ("Taken at", store.get("hook")),
        ("Pooling", store.get("pooling")),
        ("Tokens seen", _range(store.get("token_range"))),
        ("Layers in use", ", ".join(map(str, layers)) if layers else None),
        ("Solver", f"{solver.get('name')}, {manifest.get('reads', 0):.3g} reads"),
        ("Largest residual", _residual(solver)),
        ("Machine", _machine(manifest)),
    ]
    if config.get("scale", "none") != "none":
        entries.append(("Columns scaled by", config["scale"]))
    return element(
        "dl",
        [element("div", element("dt", name), element("dd", _or_unknown(value))) for name, value in entries],
        class_="facts",
    )


def _or_unknown(value: object) -> object:
    return element("span", "unknown", class_="unknown") if value in (None, "") else value


def _known(*parts: object) -> str | None:
    return " ".join(str(part) for part in parts if part) or None


def _range(token_range: object) -> str | None:
    if isinstance(token_range, list):
        first, stop = token_range
        return f"{first} to the end" if stop is None else f"{first} to {stop - 1}"
    return None if token_range is None else str(token_range)


def _residual(solver: dict[str, Any]) -> str | None:
    residual, tolerance = solver.get("max_residual"), solver.get("tolerance")
    return None if residual is None else f"{residual:.1e} of {tolerance:.0e} allowed"


def _machine(manifest: dict[str, Any]) -> str | None:
    parts = [str((manifest.get("machine") or {}).get("device") or "")]
    if manifest.get("seconds"):
        parts.append(duration(manifest["seconds"]))
    if manifest.get("peak_memory_bytes"):
        parts.append(f"{size(manifest['peak_memory_bytes'])} at most")
    return ", ".join(part for part in parts if part) or None


def _main(contents: Contents) -> Markup:
    return element(
        "main",
        _cautions(contents.manifest.get("announcements") or []),
        element("h2", "The axes"),
        _overview(contents),
        _spectrum(contents),
        [direction_section(direction, contents) for direction in contents.directions],
    )


def _cautions(announcements: Sequence[dict[str, Any]]) -> Markup | None:
    if not announcements:
        return None
    cards = []
    for said in announcements:
        kind, text = str(said.get("kind", "")), str(said.get("text", ""))
        heading = _HEADINGS.get(kind, kind.replace("_", " ").capitalize())
        sentence = text[:1].upper() + text[1:] + ("" if text.endswith((".", "!")) else ".")
        cards.append(element("div", element("b", heading), element("p", sentence), class_="caution"))
    return joined(element("h2", "Before you read on"), element("div", cards, class_="cautions"))


def _overview(contents: Contents) -> Markup:
    heads = ["", "Variance", "Halves agree"]
    if contents.labelled:
        heads = ["", "Variance", "Positive end", "Negative end", "Halves agree", "Held-out pairs", "Verdict"]
    rows = [_overview_row(direction, contents.labelled) for direction in contents.directions]
    right = {"Variance", "Halves agree", "Held-out pairs"}
    head = element("tr", [element("th", name, scope="col", class_=_classes(name, right)) for name in heads])
    table = element(
        "table", element("thead", head), element("tbody", rows), class_="axes" if contents.labelled else "small axes"
    )
    return joined(element("div", table, class_="scroll"), _overview_note(contents))


def _classes(head: str, right: set[str]) -> str | None:
    return "right" if head in right else "wide" if head == "Verdict" else None  # wide: not on a phone


def _overview_row(direction: Direction, labelled: bool) -> Markup:
    stable, unstable = stability_of(direction)
    first = [
        element("td", element("a", direction.index, href=f"#d{direction.index}"), class_="n"),
        element("td", percent(direction.variance_ratio), class_="right"),
    ]
    halves = element("td", stable, class_="right open" if unstable else "right")
    if not labelled:
        return element("tr", first, halves)
    pairs = ((direction.label or {}).get("scores") or {}).get("pairs") or {}
    accuracy = pairs.get("accuracy")
    return element(
        "tr",
        first,
        [element("td", pole(direction, side), class_=f"{side}-text") for side in SIDES],
        halves,
        element("td", "–" if accuracy is None else f"{accuracy:.2f}", class_="right"),
        element("td", verdict_of(direction), class_="wide"),
    )


def _overview_note(contents: Contents) -> Markup:
    if not contents.labelled:
        return element(
            "p",
            "These directions have no labels yet: ",
            element("code", f"skillaxes label {contents.run_dir} --traces SPEC"),
            " names them.",
            class_="soft",
        )
    return element(
        "p",
        "Held-out pairs: how often a judge who knows the label only tells a trace of one end from a trace of the "
        "other, on traces that the labeler has not seen; chance is 0.50. Halves agree: |cos| between the directions "
        "of two random halves of the rows.",
        class_="soft",
    )


def _spectrum(contents: Contents) -> Markup:
    ratios = [direction.variance_ratio for direction in contents.directions]
    layers = contents.manifest.get("layers") or {}
    ids = layers.get("ids") or []
    parts = [
        element(
            "div",
            element("h3", f"Share of the variance, {percent(sum(ratios))} together"),
            charts.scree(ratios),
        )
    ]
    if len(ids) > 1:
        energies = [direction.layer_energy for direction in contents.directions]
        table = charts.layer_table(ids, layers.get("variance_share") or [], energies)
        parts.append(element("div", element("h3", "Energy by layer, in per cent"), table))
    return element("div", parts, class_="two")


def _footer(contents: Contents) -> Markup:
    manifest = contents.manifest
    stages = [
        element(
            "tr",
            element("th", stage.get("name"), scope="row"),
            element("td", duration(stage.get("seconds") or 0.0), class_="right"),
            element("td", size(stage.get("bytes") or 0), class_="right"),
            element("td", size(stage.get("peak_memory_bytes") or 0), class_="right"),
        )
        for stage in manifest.get("stages") or []
    ]
    heads = element("tr", [element("th", name, scope="col") for name in ("Stage", "Time", "Read", "Peak memory")])
    versions = ", ".join(f"{name} {version}" for name, version in (manifest.get("versions") or {}).items())
    reasons = "; ".join((manifest.get("solver") or {}).get("reasons") or [])
    return element(
        "footer",
        element("p", f"Made by skillaxes from {contents.run_dir}. {versions}."),
        element("p", f"Solver: {reasons}.") if reasons else None,
        element(
            "details",
            element("summary", "Stages"),
            element("table", element("thead", heads), element("tbody", stages), class_="small"),
        ),
        element(
            "details",
            element("summary", "Configuration and store"),
            element("pre", json.dumps({name: manifest.get(name) for name in ("config", "store")}, indent=1)),
        ),
    )
