"""The law: each wall of ``pyproject.toml`` bites, each module stands within them, and they hold at run time too.

``make walls`` reads the imports of the sources as they are. Here forbidden imports are planted in a copy of them, for
each contract and from each side of each wall that it draws, and import-linter must refuse every single one.
"""

from __future__ import annotations

import ast
import itertools
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
ENGINE, KERNELS = ROOT / "engine" / "skillaxes", ROOT / "kernels" / "skillaxes_kernels"
LINTER: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
CONTRACTS: list[dict[str, Any]] = LINTER["contracts"]
LINT = "from importlinter.cli import lint_imports_command; lint_imports_command()"
# The rooms that labeling, report and export must not load, whatever the contracts say.
HEAVY = {"torch", "zarr", "zarrs", "skillaxes_kernels"} | {
    f"skillaxes.{room}" for room in ("api", "run", "ranking", "pca", "stream", "store", "ingest", "cluster", "devices")
}
Edge = tuple[str, str]  # a module or package, and what it is made to import


def of_type(kind: str) -> list[Any]:
    """The contracts of a type, as parameters of a test."""
    return [pytest.param(contract, id=contract["name"]) for contract in CONTRACTS if contract["type"] == kind]


class Copy:
    """A copy of the sources, to plant imports in."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._roots = {root.name: root for root in (folder / "engine" / ENGINE.name, folder / "kernels" / KERNELS.name)}
        for source, copy in zip((ENGINE, KERNELS), self._roots.values(), strict=True):
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__", "*.so", "csrc"))
        shutil.copy(ROOT / "pyproject.toml", folder)

    def file_of(self, module: str) -> Path:
        """The file to plant in: the module's own, or a new one in a package."""
        root, *names = module.split(".")
        path = self._roots[root].joinpath(*names)
        return path / "planted.py" if path.is_dir() else path.with_suffix(".py")

    def plant(self, importer: str, imported: str) -> str:
        """Let one module, or a new module of a package, import another; the line in which the linter must name it."""
        file = self.file_of(importer)
        with file.open("a", encoding="utf-8") as text:
            text.write(f"\nimport {imported}\n")
        return f"{importer}.planted -> {imported} " if file.stem == "planted" else f"{importer} -> {imported} "

    def broken(self, name: str) -> str:
        """What the linter says of the contract called ``name``, which must be broken."""
        done = subprocess.run(
            [sys.executable, "-c", LINT, "--no-logo", "--no-cache", "--config", "pyproject.toml"],
            cwd=self._folder,
            env={**os.environ, "PYTHONPATH": f"engine{os.pathsep}kernels", "COLUMNS": "1000"},
            capture_output=True,
            text=True,
            check=False,
        )
        # Behind it the linter counts the imports that the contract ignores.
        assert re.search(rf"^{re.escape(name)} BROKEN( \(\d+ ignored imports?\))?$", done.stdout, re.MULTILINE), (
            done.stdout + done.stderr
        )
        said = done.stdout.split(f"\n{name}\n{'-' * len(name)}\n", 1)[1]
        others = (f"\n{contract['name']}\n---" for contract in CONTRACTS)
        return said[: min((at for at in map(said.find, others) if at >= 0), default=len(said))]


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path)


def refused(copy: Copy, contract: dict[str, Any], edges: Iterable[Edge], heading: Callable[[Edge], str]) -> None:
    """Plant imports, and find each of them below its heading in what the linter says."""
    planted = {edge: copy.plant(*edge) for edge in edges}
    assert planted
    said = copy.broken(contract["name"])
    for edge, line in planted.items():
        assert heading(edge) in said, (edge, said)
        below = said.split(heading(edge), 1)[1].split(" is not allowed to import ", 1)[0]
        assert line in below, (edge, said)


def not_allowed(edge: Edge) -> str:
    return f"{edge[0]} is not allowed to import {edge[1]}:"


def rooms() -> list[str]:
    """The modules and packages right below ``skillaxes``."""
    return sorted(
        path.stem
        for path in ENGINE.iterdir()
        if (path.suffix == ".py" and path.stem != "__init__") or (path / "__init__.py").exists()
    )


def layers(contract: dict[str, Any]) -> list[list[str]]:
    """The modules of each layer, from top to bottom."""
    (container,) = contract.get("containers", [""])
    inside = f"{container}." if container else ""
    return [[inside + name.strip() for name in layer.replace("|", ":").split(":")] for layer in contract["layers"]]


@pytest.mark.parametrize("contract", of_type("forbidden"))
def test_a_forbidden_import_is_refused_from_every_source(copy: Copy, contract: dict[str, Any]) -> None:
    pairs = [(one, other) for one in contract["source_modules"] for other in contract["forbidden_modules"]]
    refused(copy, contract, pairs, not_allowed)


@pytest.mark.parametrize("contract", of_type("layers"))
def test_no_layer_imports_the_one_above_it(copy: Copy, contract: dict[str, Any]) -> None:
    found = layers(contract)
    pairs = [(lower, upper) for above, below in itertools.pairwise(found) for upper in above for lower in below]
    refused(copy, contract, pairs, not_allowed)


@pytest.mark.parametrize("contract", of_type("protected"))
def test_a_protected_room_is_imported_by_nobody_else(copy: Copy, contract: dict[str, Any]) -> None:
    allowed = {*contract["allowed_importers"], *contract["protected_modules"]}
    others = [name for name in (f"skillaxes.{room}" for room in rooms()) if name not in allowed]
    pairs = [(other, room) for room in contract["protected_modules"] for other in others]
    refused(copy, contract, pairs, lambda edge: f"Illegal imports of protected package {edge[1]}:")


@pytest.mark.parametrize("contract", of_type("acyclic_siblings"))
def test_a_circle_is_refused_in_every_package(copy: Copy, contract: dict[str, Any]) -> None:
    packages = sorted(
        ".".join(file.parent.relative_to(root.parent).parts)
        for root in (ENGINE, KERNELS)
        for file in root.rglob("__init__.py")
    )
    for package in packages:
        folder = copy.file_of(package).parent
        for one, other in (("planted_a", "planted_b"), ("planted_b", "planted_a")):
            (folder / f"{one}.py").write_text(f"import {package}.{other}\n", encoding="utf-8")
    said = copy.broken(contract["name"])
    missing = [package for package in packages if f"No cycles are allowed in {package}.\n" not in said]
    assert not missing, said


def test_every_module_is_in_one_layer_and_a_new_one_has_to_be() -> None:
    (contract,) = (contract for contract in CONTRACTS if contract.get("containers") == ["skillaxes"])
    listed = [name for layer in layers(contract) for name in layer]
    listed += [f"skillaxes.{name}" for name in contract["exhaustive_ignores"]]
    assert sorted(listed) == [f"skillaxes.{room}" for room in rooms()]


def test_a_module_in_no_layer_is_refused(copy: Copy) -> None:
    (contract,) = (contract for contract in CONTRACTS if contract.get("containers") == ["skillaxes"])
    copy.file_of("skillaxes").write_text('"""A module in no layer."""\n', encoding="utf-8")
    assert "- skillaxes.planted\n" in copy.broken(contract["name"])


def modules(root: Path, room: str) -> list[str]:
    """Names of all modules of a room."""
    files = sorted((root / room).rglob("*.py"))
    names = [".".join(file.relative_to(root.parent).with_suffix("").parts) for file in files]
    assert names
    return [name.removesuffix(".__init__") for name in names]


def loaded(names: list[str]) -> set[str]:
    """Top-level names in ``sys.modules`` after importing modules, and skillaxes' own rooms."""
    code = f"import importlib, sys; [importlib.import_module(n) for n in {names!r}]; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = done.stdout.split()
    return {name.partition(".")[0] for name in names} | {".".join(name.split(".")[:2]) for name in names}


def forbidden_to(room: str) -> set[str]:
    """What a room must not load: all that the contracts forbid it to import, and more."""
    listed = (contract for contract in CONTRACTS if contract["type"] == "forbidden")
    return HEAVY.union(*(one["forbidden_modules"] for one in listed if room in one["source_modules"]))


def test_labeling_runs_without_torch_zarr_and_solvers() -> None:
    found = loaded(modules(ENGINE, "labeling"))
    assert not found & (forbidden_to("skillaxes.labeling") | {"skillaxes.report"})


def test_the_report_knows_the_run_folder_only() -> None:
    found = loaded([*modules(ENGINE, "report"), "skillaxes.export"])
    assert not found & (forbidden_to("skillaxes.report") | forbidden_to("skillaxes.export") | {"skillaxes.labeling"})


def test_kernels_know_no_engine() -> None:
    assert "skillaxes" not in loaded(["skillaxes_kernels", "skillaxes_kernels.api", "skillaxes_kernels.reference"])


def test_source_roots_are_no_packages() -> None:
    assert not (ROOT / "engine" / "__init__.py").exists()
    assert not (ROOT / "kernels" / "__init__.py").exists()


@pytest.mark.parametrize("library", ["cupy", "kvikio"])
def test_a_gpu_library_is_imported_in_one_file_at_most(library: str) -> None:
    importers = [file for root in (ENGINE, KERNELS) for file in root.rglob("*.py") if library in _imports(file)]
    assert len(importers) <= 1, importers


def test_the_engine_imports_no_gpu_language() -> None:
    assert not [file for file in ENGINE.rglob("*.py") if "triton" in _imports(file)]


def _imports(file: Path) -> set[str]:
    """Top-level names that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
    return found
