"""Law: the page shows what the folder holds, says what is unknown, loads nothing, and no trace can speak HTML."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from skillaxes.errors import RunFolderError
from skillaxes.report import write_report
from skillaxes.run_folder.contents import read_contents

HOSTILE = "</div><script>alert(1)</script>\u202egnp.exe\x00 <img src=http://evil/x onerror=alert(1)> & \"quoted\" 'it'"


class Page(HTMLParser):
    """Tags in order, checked for balance, and all text outside style."""

    void = frozenset({"meta", "br"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.void:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.stack:
            self.text += data + " "

    def all(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [a for t, a in self.tags if t == tag and all(a.get(k.rstrip("_")) == v for k, v in wanted.items())]


def page_of(run_dir: Path) -> Page:
    path = write_report(run_dir)
    assert path == run_dir / "report.html"
    return Page(path.read_text(encoding="utf-8"))


def edit_manifest(run_dir: Path, **changes: Any) -> None:
    manifest = json.loads((run_dir / "manifest.json").read_text())
    (run_dir / "manifest.json").write_text(json.dumps({**manifest, **changes}))


def edit_labels(run_dir: Path, change: Any) -> None:
    records = [json.loads(line) for line in (run_dir / "labels.jsonl").read_text().splitlines()]
    for record in records:
        change(record)
    (run_dir / "labels.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def test_everything_is_on_the_page(run_folder: Path) -> None:
    page = page_of(run_folder)
    manifest = json.loads((run_folder / "manifest.json").read_text())
    assert [a["id"] for a in page.all("section")] == ["d0", "d1", "d2", "d3"]
    for said in manifest["diagnostics"]:
        assert said["text"][1:] in page.text
    for record in map(json.loads, (run_folder / "labels.jsonl").read_text().splitlines()):
        for words in record["keywords"].values():
            assert all(word in page.text for word in words)
        assert record["verdict"]["text"] in page.text
    assert "Separating words" in page.text and "not a name" in page.text
    assert len(page.all("svg")) == 1 + 2 * 4  # the scree, two histograms a direction
    assert manifest["store"]["model"] in page.text


def test_what_is_unknown_is_called_unknown(run_folder: Path) -> None:
    store = json.loads((run_folder / "manifest.json").read_text())["store"]
    known = page_of(run_folder).all("span", class_="unknown")
    unknown = dict.fromkeys(("model", "revision", "hook", "pooling", "token_range", "layer_ids"))
    edit_manifest(run_folder, store={**store, **unknown})
    assert len(page_of(run_folder).all("span", class_="unknown")) == len(known) + 4


def test_the_page_loads_nothing(run_folder: Path) -> None:
    page = page_of(run_folder)
    assert not {tag for tag, _ in page.tags} & {"script", "img", "link", "iframe", "object", "form", "base", "image"}
    for _, attributes in page.tags:
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")
        assert not [name for name in attributes if name.startswith("on")]
        assert "url(" not in (attributes.get("style") or "")
    [policy] = page.all("meta", http_equiv="Content-Security-Policy") or [
        a for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"
    ]
    assert "default-src 'none'" in str(policy["content"])
    html = (run_folder / "report.html").read_text(encoding="utf-8")
    assert "url(" not in html and "@import" not in html


def test_no_text_can_speak_html(run_folder: Path) -> None:
    def poison(record: dict[str, Any]) -> None:
        record["keywords"] = {"positive": [HOSTILE], "negative": ["<b>bold</b>"]}
        record["attributes"] = {"positive": [HOSTILE], "negative": []}
        record["verdict"]["text"] = HOSTILE
        for entries in record["shown"].values():
            for entry in entries:
                entry["excerpt"] = HOSTILE

    before = [tag for tag, _ in page_of(run_folder).tags]
    edit_labels(run_folder, poison)
    manifest = json.loads((run_folder / "manifest.json").read_text())
    store, layers = manifest["store"], manifest["layers"]
    layers["ids"][0] = HOSTILE
    edit_manifest(run_folder, store={**store, "model": HOSTILE, "path": HOSTILE}, layers=layers)
    page = page_of(run_folder)
    assert {tag for tag, _ in page.tags} <= set(before) | {"ul", "li", "details", "summary"}
    assert "<script>alert(1)</script>" in page.text  # as text
    html = (run_folder / "report.html").read_text(encoding="utf-8")
    assert "<script" not in html and "<img" not in html and "<b>bold" not in html
    assert "\u202e" not in html and "\x00" not in html


def test_texts_of_the_shown_rows_are_shown(run_folder: Path) -> None:
    def add(record: dict[str, Any]) -> None:
        for side, entries in record["shown"].items():
            for entry in entries:
                entry["excerpt"] = f"text of row {entry['row']} at the {side} end"

    edit_labels(run_folder, add)
    page = page_of(run_folder)
    for record in map(json.loads, (run_folder / "labels.jsonl").read_text().splitlines()):
        for entries in record["shown"].values():
            assert all(entry["excerpt"] in page.text for entry in entries)


def test_without_labels(run_folder: Path) -> None:
    (run_folder / "labels.jsonl").unlink()
    page = page_of(run_folder)
    assert "no labels yet" in page.text and f"skillaxes label {run_folder}" in page.text
    assert "Direction 0" in page.text and "row " in page.text


def test_without_scores(run_folder: Path) -> None:
    from shutil import rmtree

    rmtree(run_folder / "scores.zarr")
    assert len(page_of(run_folder).all("svg")) == 1


@pytest.mark.parametrize(
    ("status", "kind", "text"),
    [("failed", None, "rate_limit"), ("uninterpretable", "name", "Uninterpretable"), ("labelled", "name", "A name")],
)
def test_kinds_of_label(run_folder: Path, status: str, kind: str | None, text: str) -> None:
    def change(record: dict[str, Any]) -> None:
        failure = {"kind": "rate_limit", "message": "try later", "request_id": "r1", "status": 429}
        record.update(status=status, kind=kind, failure=failure if status == "failed" else None)
        if status != "labelled":
            record["scores"] = record["baselines"] = {}
        record.update(analysis="because", axes=["tone"], attributes={"positive": ["calm"], "negative": ["loud"]})

    edit_labels(run_folder, change)
    page = page_of(run_folder)
    assert text in page.text
    assert ("Separating words" in page.text) is False
    if status == "labelled":
        assert all(word in page.text for word in ("because", "tone", "calm", "loud"))


@pytest.mark.parametrize(
    ("change", "marked"),
    [
        ({"split_half": 0.9}, 0),
        ({"split_half": 0.89}, 1),
        ({"split_half": None}, 0),
        ({"norm_correlation": -0.29}, 0),
        ({"norm_correlation": -0.3}, 1),
        ({"certified": {"positive": 10, "negative": 10}}, 0),
        ({"certified": {"positive": 9, "negative": 10}}, 1),
        ({"residual": None, "angle_bound": None, "shared_top": None, "certified": None}, 0),
    ],
)
def test_a_number_to_doubt_is_marked(run_folder: Path, change: dict[str, Any], marked: int) -> None:
    good = {"split_half": 1.0, "norm_correlation": 0.0, "certified": {"positive": 10, "negative": 10}}
    directions = json.loads((run_folder / "manifest.json").read_text())["directions"]
    directions = [{**entry, **good} for entry in directions]
    directions[1].update(change)
    edit_manifest(run_folder, directions=directions)
    page = page_of(run_folder)
    assert len(page.all("li", class_="bad")) == marked
    assert len(page.all("td", class_="right open")) == (marked if "split_half" in change else 0)


def test_one_subspace_is_named(run_folder: Path) -> None:
    directions = json.loads((run_folder / "manifest.json").read_text())["directions"]
    for entry in directions[1:3]:
        entry["subspace"] = [1, 2]
    edit_manifest(run_folder, directions=directions)
    assert "read directions 1 to 2 as one subspace" in page_of(run_folder).text


@pytest.mark.parametrize("rank_by", ["raw-cosine", "centered-cosine"])
def test_the_ends_are_marked_in_the_histogram_of_what_rows_are_ranked_by(
    sample: Path, tmp_path: Path, rank_by: str
) -> None:
    import skillaxes

    skillaxes.discover(sample / "activations.zarr", tmp_path / "run", components=2, top=40, rank_by=rank_by)
    contents = read_contents(tmp_path / "run")
    [first, _] = contents.directions
    score = "cosine" if rank_by == "raw-cosine" else "cosine_centered"
    page = page_of(tmp_path / "run")
    lines = page.all("line", class_="threshold positive")
    assert len(lines) == 2  # one a direction: in one of its two histograms
    histogram = contents.histograms[rank_by][first.index]
    left, width = 8, 480 - 8 - 8
    least = min(getattr(row, score) for row in first.ends["positive"])
    expected = left + width * (least - histogram.edges[0]) / (histogram.edges[-1] - histogram.edges[0])
    assert float(str(lines[0]["x1"])) == pytest.approx(expected, abs=0.1)
    inside = histogram.counts[histogram.edges[:-1] >= least].sum()
    assert 0 < inside <= 40


def test_damage_is_one_sentence(run_folder: Path) -> None:
    with pytest.raises(RunFolderError, match=r"holds no manifest\.json"):
        write_report(run_folder / "nowhere")
    (run_folder / "labels.jsonl").write_text("{}\n")
    with pytest.raises(RunFolderError, match=r"labels.jsonl: line 1 is no label; .*--overwrite"):
        write_report(run_folder)
    (run_folder / "labels.jsonl").unlink()
    (run_folder / "topk.parquet").write_bytes(b"no parquet")
    with pytest.raises(RunFolderError, match=r"topk.parquet cannot be read .*--overwrite"):
        write_report(run_folder)
    edit_manifest(run_folder, status="failed")
    with pytest.raises(RunFolderError, match=r"not finished \(status: failed\)"):
        write_report(run_folder)
    assert not (run_folder / "report.html").exists()
