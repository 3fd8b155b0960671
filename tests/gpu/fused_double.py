"""Whole jobs with the fused kernels on the double of a card, under Triton's interpreter, in a process of its own.

``fused_double.py FOLDER`` prints, as JSON, what became of each case and what a panel asks of the card. ``FOLDER`` holds
the double's compiled guard.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from device_jobs import assert_same
from double_place import DoublePlace, PanelCounts
from kernel_laws import teach_interpreter_bfloat16
from support.cuda_double import OnCard, counts
from support.matrices import direction_errors, power_law, rounded, write_store
from torch.utils._python_dispatch import _disable_current_modes

import skillaxes
from skillaxes.ingest.directions import GivenDirections
from skillaxes_kernels.backends import triton as fused

N, D, K = 260, 128, 4
L2 = 1 << 15  # panels of 64 rows
ROWS = power_law(N, D, exponent=0.6)
MULTIPROCESSORS = 132
LAYERS: dict[str, Any] = {"hidden": 32, "layer_ids": (3, 7, 11, 15)}
EXACT = 1e-12


class OnDouble:
    """A kernel that takes tensors of the card alone, and counts as one launch."""

    def __init__(self, kernel: Any, name: str) -> None:
        self._kernel, self._name = kernel, name

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*arguments: Any, **constants: Any) -> None:
            for place, argument in enumerate(arguments):
                if isinstance(argument, torch.Tensor) and not isinstance(argument, OnCard):
                    raise RuntimeError(f"{self._name}: argument {place} is on {argument.device}")
            counts.launches[self._name] += 1
            held = [argument.held if isinstance(argument, OnCard) else argument for argument in arguments]
            with _disable_current_modes():
                self._kernel[grid](*held, **constants)

        return launch


def declines(self: fused.TritonBackend, spec: Any) -> str | None:
    """As a card of capability 8.0 or newer answers."""
    half_or_single = (torch.float16, torch.bfloat16, torch.float32)
    return None if spec.device.type == "cuda" and spec.dtype in half_or_single else "not on the double"


def store(folder: Path, dtype: str, **options: Any) -> Path:
    return write_store(folder / f"{dtype}-{len(options)}", rounded(ROWS, dtype), dtype, chunk_rows=97, **options)


def same(place: DoublePlace, folder: Path, dtype: str, layout: dict[str, Any] | None = None, **options: Any) -> None:
    """A job finds there what it finds on the CPU."""
    here, there = _both(place, store(folder, dtype, **(layout or {})), **options)
    assert_same(here, there)


def exact(place: DoublePlace, folder: Path, dtype: str, solver: str) -> None:
    """Nothing but float32's sums keeps its directions from the CPU's."""
    here, there = _both(place, store(folder, dtype), solver=solver)
    errors = direction_errors(there.directions.components, here.directions.components.astype(np.float64))
    assert errors.max() <= EXACT, f"1 - |cos| is {errors.max():.1e}"


def given(place: DoublePlace, folder: Path, dtype: str, mean: bool) -> None:
    """Given directions rank the same rows there."""
    path = store(folder, dtype)
    components = np.random.default_rng(0).standard_normal((3, D)).astype(np.float32)
    directions = GivenDirections(components, 0.9 * ROWS.mean(axis=0) if mean else None, None, "a test")
    assert_same(skillaxes.apply(path, device="cpu", directions=directions), place.apply(path, directions=directions))


def _both(place: DoublePlace, path: Path, **options: Any) -> tuple[Any, Any]:
    here = skillaxes.discover(path, device="cpu", components=K, **options)
    there = place.discover(path, l2=L2, **{"components": K, **options})
    assert there.manifest["plan"]["products"].startswith("triton")
    return here, there


SEVERAL = {"solver": "krylov", "tolerance": 1e-6, "max_reads": 4}
CASES: dict[str, Callable[[DoublePlace, Path], None]] = {
    "krylov float16": partial(same, dtype="float16", **SEVERAL),
    "krylov bfloat16": partial(same, dtype="bfloat16", **SEVERAL),
    "krylov float32": partial(same, dtype="float32", **SEVERAL),
    "layers, columns of equal size": partial(same, dtype="float16", layout=LAYERS, scale="column-std", **SEVERAL),
    "covariance float16": partial(exact, dtype="float16", solver="covariance"),
    "covariance bfloat16": partial(exact, dtype="bfloat16", solver="covariance"),
    "incremental bfloat16": partial(exact, dtype="bfloat16", solver="incremental"),
    "given directions float16": partial(given, dtype="float16", mean=False),
    "given directions with a mean bfloat16": partial(given, dtype="bfloat16", mean=True),
}
LAYOUTS: dict[str, dict[str, Any]] = {"no layers": {}, "four layers": LAYERS}


def counted(place: DoublePlace, folder: Path, layout: dict[str, Any]) -> dict[str, Any]:
    """The most that a panel of the first read, and of a later one, asks of the card."""
    path = store(folder, "float16", **layout)
    first, later, *_ = place.panels(path, l2=L2, components=K, solver="krylov", tolerance=1e-9, max_reads=2)
    return {"first": asdict(PanelCounts.most(first)), "later": asdict(PanelCounts.most(later))}


def main(guard: Path) -> None:
    torch.set_num_threads(1)
    teach_interpreter_bfloat16()
    place, verdicts = DoublePlace(guard), dict[str, str | None]()
    with tempfile.TemporaryDirectory() as made, contextlib.ExitStack() as stack:
        folder = Path(made)
        for name in ("project_kernel", "finish_kernel", "accumulate_kernel"):
            kernel = OnDouble(getattr(fused, name), name)
            stack.enter_context(mock.patch.object(fused, name, kernel))
        stack.enter_context(mock.patch.object(fused.TritonBackend, "declines", declines))
        stack.enter_context(mock.patch.object(fused, "_on", lambda device: contextlib.nullcontext()))
        stack.enter_context(mock.patch.object(fused, "_processors", lambda device: MULTIPROCESSORS))
        for name, check in CASES.items():
            try:
                check(place, folder)
                verdicts[name] = None
            except Exception as error:
                verdicts[name] = f"{type(error).__name__}: {error}"
        asked = {name: counted(place, folder, layout) for name, layout in LAYOUTS.items()}
    print(json.dumps({"verdicts": verdicts, "counts": asked}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
