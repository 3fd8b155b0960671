"""The law: what the documents name is there: every dotted name can be imported, every file lies where it is said to."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from pkgutil import resolve_name

import pytest

ROOT = Path(__file__).resolve().parents[1]
ENGINE, KERNELS = ROOT / "engine" / "skillaxes", ROOT / "kernels" / "skillaxes_kernels"
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# Paths are given from the root or, where a room is spoken of, from its package.
BASES = (ROOT, ENGINE, KERNELS, ENGINE / "cluster" / "job_scripts")
LINTER = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
DOTTED = re.compile(r"\bskillaxes(?:_kernels)?(?:\.[A-Za-z_]\w*)+")
FILE = re.compile(r"(?<![\w./<>$-])(?:\.?[\w-][\w.-]*/)*[\w-]+\.(?:py|md|toml|sh|txt|c|h|j2)\b(?![/(])")
FOLDER = re.compile(r"`((?:[\w-]+/)+)`")
LINK = re.compile(r"\]\(([^)#:]+)\)")

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


def names(text: str) -> Iterator[str]:
    """Dotted names of modules, classes, methods, functions and tables."""
    yield from sorted(set(DOTTED.findall(text)))


def paths(text: str) -> Iterator[str]:
    """Files by their suffix anywhere, folders in code marks."""
    yield from sorted(set(FILE.findall(text)) | set(FOLDER.findall(text)))


def missing(text: str) -> list[str]:
    """What a text names and is not there."""
    lost = [path for path in paths(text) if not any((base / path).exists() for base in BASES)]
    for name in names(text):
        try:
            resolve_name(name)
        except (ImportError, AttributeError):
            lost.append(name)
    return lost


@each_document
def test_what_is_named_is_there(document: Path) -> None:
    assert missing(document.read_text(encoding="utf-8")) == []


@each_document
def test_links_lead_somewhere(document: Path) -> None:
    links = LINK.findall(document.read_text(encoding="utf-8"))
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_the_row_is_followed_by_name() -> None:
    followed = list(names((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")))
    rooms = {name.split(".")[1] for name in followed if name.startswith("skillaxes.")}
    assert {"ingest", "store", "stream", "pca", "run", "ranking", "run_folder", "labeling", "report"} <= rooms
    assert "skillaxes_kernels.project" in followed and len(followed) >= 40


def test_the_picture_of_the_rooms_is_that_of_the_walls() -> None:
    (contract,) = (one for one in LINTER["contracts"] if one["type"] == "layers" and one.get("exhaustive"))
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    picture = text[text.index("The rooms of the engine") :].split("```")[1].splitlines()
    rooms = [set(layer.replace(":", " ").split()) for layer in contract["layers"]]
    drawn = [set(line.split()) for line in picture]
    lines = [next((at for at, words in enumerate(drawn) if layer <= words), None) for layer in rooms]
    assert None not in lines and lines == sorted(lines)


def test_what_is_not_there_is_found() -> None:
    text = "`skillaxes.pca.krylov.KrylovRead.improve`, see pca/lanczos.py, `engine/attic/` and tests/test_docs.py."
    assert missing(text) == ["engine/attic/", "pca/lanczos.py", "skillaxes.pca.krylov.KrylovRead.improve"]
