"""One direction: its label and what that is worth, how the rows spread, the traces at both ends."""

from __future__ import annotations

from collections.abc import Mapping

from skillaxes.report import charts
from skillaxes.report.examples import end_of, score_of
from skillaxes.report.html import Markup, element, joined
from skillaxes.report.numbers import percent
from skillaxes.report.parts import stability_of, verdict_of, words_of
from skillaxes.run_folder.contents import Contents, Direction
from skillaxes.run_folder.formats import CENTERED_COSINE, NEGATIVE, POSITIVE, PROJECTION, RAW_COSINE, SIDES

_TITLES = {
    RAW_COSINE: "Raw cosine",
    CENTERED_COSINE: "Centred cosine",
    PROJECTION: "Projection, in standard deviations",
}


def direction_section(direction: Direction, contents: Contents) -> Markup:
    """The section of one direction."""
    return element(
        "section",
        element(
            "header",
            element("span", direction.index, class_="ordinal"),
            element("h2", _heading(direction)),
            element("p", _kind(direction), class_="kind"),
        ),
        _figures(direction),
        _reading(direction),
        _notes(direction, contents),
        element("div", [_score(direction), _confounds(direction)], class_="two") if direction.label else None,
        _spread(direction, contents.rank_by),
        _energy(direction, contents),
        element("div", [end_of(direction, side, contents.rank_by) for side in SIDES], class_="ends"),
        class_="direction",
        id=f"d{direction.index}",
    )


def _heading(direction: Direction) -> object:
    label = direction.label or {}
    if label.get("status") != "labelled":
        return f"Direction {direction.index}"
    ends = [element("span", words_of(label["keywords"].get(side) or ["–"]), class_=f"{side}-text") for side in SIDES]
    return joined(ends[0], element("span", " vs. ", class_="vs"), ends[1])


def _kind(direction: Direction) -> object:
    label = direction.label
    if not label:
        return "No label"
    by = " ".join(str(label[name]) for name in ("labeler", "model") if label.get(name))
    if label.get("status") == "failed":
        failure = label.get("failure") or {}
        return joined(
            "No label: ", element("b", failure.get("kind", "failed")), f", {failure.get('message', '')} ({by})"
        )
    if label.get("status") == "uninterpretable":
        return joined(element("b", "Uninterpretable"), f", says the labeler ({by})")
    if label.get("kind") == "words":
        return joined(
            element("b", "Separating words"), f", not a name: terms more frequent at one end than at the other ({by})"
        )
    return joined(element("b", "A name"), f", given by a language model that read the shown traces ({by})")


def _figures(direction: Direction) -> Markup:
    facts = direction.facts
    stable, unstable = stability_of(direction)
    items: list[tuple[str, str, bool]] = [(percent(direction.variance_ratio), "of the variance", False)]
    if facts.get("residual") is not None:
        items.append((f"{facts['residual']:.1e}", "residual", False))
    if facts.get("angle_bound") is not None:
        items.append((f"≤ {facts['angle_bound']:.1e}", f"angle error, {facts.get('bound', 'estimated')}", False))
    items.append((stable, "halves agree", unstable))
    settled = facts.get("settled") or {}
    for side in SIDES:
        if side in settled:
            n = len(direction.ends[side])
            items.append((f"{settled[side]} of {n}", f"settled, {side}", settled[side] < n))
    if facts.get("norm_correlation") is not None:
        items.append(
            (f"{facts['norm_correlation']:+.2f}", "correlation with row norm", abs(facts["norm_correlation"]) >= 0.3)
        )
    if facts.get("shared_top") is not None:
        n = len(direction.ends[POSITIVE])
        items.append((f"{facts['shared_top']:g} of {n}", "rows in both rankings", False))
    return element(
        "ul",
        [element("li", element("b", value), f" {what}", class_="bad" if bad else None) for value, what, bad in items],
        class_="figures",
    )


def _reading(direction: Direction) -> list[Markup]:
    """What a language model says beyond the keywords."""
    label = direction.label or {}
    axes, analysis = label.get("axes") or [], label.get("analysis")
    return [
        *([element("p", element("b", "What separates the ends: "), "; ".join(map(str, axes)))] if axes else []),
        *([element("p", analysis, class_="analysis")] if analysis else []),
    ]


def _notes(direction: Direction, contents: Contents) -> list[Markup]:
    notes = []
    group = direction.facts.get("subspace") or []
    if len(group) > 1:
        others = ", ".join(str(index) for index in group if index != direction.index)
        notes.append(
            f"Its eigenvalue cannot be told apart from that of direction {others}: read directions {group[0]} to "
            f"{group[-1]} as one subspace. Each is computed exactly, yet another sample would turn them within it."
        )
    elif stability_of(direction)[1]:
        notes.append("Sample-dependent: two random halves of the rows give two different directions.")
    agreement = (direction.label or {}).get("agreement")
    if agreement and agreement.get("overlap") is not None:
        notes.append(
            f"Labels from {agreement['samples']} disjoint samples share {percent(agreement['overlap'])} of their words."
        )
    return [element("p", note, class_="note") for note in notes]


def _score(direction: Direction) -> Markup | None:
    label = direction.label or {}
    scores, baselines = label.get("scores") or {}, label.get("baselines") or {}
    lines = [
        charts.interval(name, figure, kind)
        for name, figure, kind in (
            ("this label", scores.get("pairs"), "label"),
            ("text length alone", baselines.get("length"), "baseline"),
            ("random directions, 95%", baselines.get("random_directions"), "baseline"),
            ("random orders, 95%", baselines.get("random_orders"), "baseline"),
            ("on other kinds of text", scores.get("disjoint"), "label"),
            ("length on those", baselines.get("length_disjoint"), "baseline"),
        )
        if figure
    ]
    lines = [line for line in lines if line is not None]
    detection = scores.get("detection")
    return element(
        "div",
        element("h3", "Blind pairs of held-out traces"),
        lines or element("p", "Not scored.", class_="soft"),
        element("p", "Verdict: ", verdict_of(direction)),
        element(
            "p",
            f"Each trace alone, one of three groups: {detection['balanced_accuracy']:.2f} balanced accuracy "
            f"(chance {detection['chance']:.2f}, {detection['traces']} traces).",
            class_="soft",
        )
        if detection
        else None,
    )


def _confounds(direction: Direction) -> Markup | None:
    found = (direction.label or {}).get("confounds") or {}
    spearman: Mapping[str, float | None] = found.get("spearman") or {}
    if not spearman:
        return None
    strong = set(found.get("confounded_with") or [])
    rows = [
        element(
            "tr",
            element("th", name, scope="row"),
            element(
                "td", "–" if rho is None else f"{rho:+.2f}", class_="right open bold" if name in strong else "right"
            ),
        )
        for name, rho in spearman.items()
    ]
    categories = [
        element(
            "p",
            element("b", f"{field}, {side} end: "),
            "; ".join(
                f"{entry['value']} {percent(entry['share'])} (everywhere {percent(entry['share_everywhere'])})"
                for entry in entries
            ),
            class_="soft",
        )
        for field, sides in (found.get("categories") or {}).items()
        for side, entries in sides.items()
        if entries
    ]
    return element(
        "div",
        element("h3", "What goes along with it"),
        element("table", rows, class_="small"),
        element("p", f"Rank correlations over {found.get('rows', 0):,} rows.", class_="soft"),
        categories,
    )


def _spread(direction: Direction, rank_by: str) -> Markup | None:
    if not direction.histograms:
        return None
    order = [rank_by, *(name for name in (CENTERED_COSINE, RAW_COSINE) if name != rank_by)][:2]
    pictures = []
    for name in order:
        low, high = _thresholds(direction, name) if name == rank_by and name != PROJECTION else (None, None)
        note = ", what rows are ranked by" if name == rank_by else ""
        pictures.append(charts.histogram(_TITLES[name] + note, direction.histograms[name], low, high))
    return element("div", element("h3", "How the rows spread"), element("div", pictures, class_="two"))


def _thresholds(direction: Direction, rank_by: str) -> tuple[float | None, float | None]:
    """The least extreme score that was kept at either end."""
    scores = {
        side: [score for row in direction.ends[side] if (score := score_of(row, rank_by)) is not None] for side in SIDES
    }
    return max(scores[NEGATIVE], default=None), min(scores[POSITIVE], default=None)


def _energy(direction: Direction, contents: Contents) -> Markup | None:
    ids = (contents.manifest.get("layers") or {}).get("ids") or []
    if len(ids) < 2 or not direction.layer_energy:
        return None
    return element("div", element("h3", "Energy by layer"), charts.layer_strip(ids, direction.layer_energy))
