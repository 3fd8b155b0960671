"""Law: the walls hold at run time too, not only in the import graph that import-linter reads (``make walls``)."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ENGINE, KERNELS = ROOT / "engine" / "skillaxes", ROOT / "kernels" / "skillaxes_kernels"


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


def test_labeling_runs_without_torch_zarr_and_solvers() -> None:
    found = loaded(modules(ENGINE, "labeling"))
    engine = {"pca", "stream", "ranking", "store", "ingest", "discovery", "applying", "solve", "report", "devices"}
    assert not found & ({"torch", "zarr", "zarrs", "skillaxes_kernels"} | {f"skillaxes.{room}" for room in engine})


def test_the_report_knows_the_run_folder_only() -> None:
    found = loaded([*modules(ENGINE, "report"), "skillaxes.export"])
    engine = {"pca", "stream", "ranking", "store", "ingest", "discovery", "applying", "solve", "labeling", "devices"}
    assert not found & ({"torch", "skillaxes_kernels"} | {f"skillaxes.{room}" for room in engine})


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
