"""Errors planted one at a time in the kernels; each must break a law.

    TRITON_INTERPRET=1 python tests/kernels/mutants.py laws        errors that results show
    python tests/kernels/mutants.py compiler                       errors that only the compiled code shows

A line for each mutant names the law that broke; exit status 1 if one survives, or if a text to replace is gone.
Each mutant runs in a forked process: one that reads from a wild address may crash there.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2]))
import kernel_laws
from kernel_cases import Target

for loaded_before_the_fork in ("skillaxes_kernels.api", "triton.language"):
    importlib.import_module(loaded_before_the_fork)


@dataclass(frozen=True)
class Mutant:
    """``old`` becomes ``new`` in a module of skillaxes_kernels, at the ``nth`` place it occurs."""

    name: str
    module: str
    old: str
    new: str
    nth: int = 0
    law: str = ""  # tried first


_T = "backends.triton"
MUTANTS = (
    Mutant("wrong row mask", _T, "row_mask = rows < n_rows", "row_mask = rows <= n_rows", law="definition"),
    Mutant("wrong column mask", _T, "column_mask = columns < n_columns", "column_mask = columns <= n_columns"),
    Mutant("no column mask on the directions", _T, "mask=column_mask[:, None],", "mask=column_mask[:, None] | True,"),
    Mutant("masked entries are 1", _T, "other=0.0,\n        )  # (R, C)", "other=1.0,\n        )  # (R, C)"),
    Mutant("missing norm", _T, "sq_norms += tl.sum(y * y, axis=1)", "sq_norms += 0.0"),
    Mutant("norm of the raw row", _T, "tl.sum(y * y, axis=1)", "tl.sum(x.to(tl.float32) * x.to(tl.float32), axis=1)"),
    Mutant(
        "swapped stride",
        _T,
        "panel_ptr + rows[:, None] * stride_panel_row + columns[None, :]",
        "panel_ptr + rows[:, None] + columns[None, :] * stride_panel_row",
    ),
    Mutant(
        "32-bit address in project",
        _T,
        "tl.program_id(0).to(tl.int64) * BLOCK_ROWS",
        "tl.program_id(0) * BLOCK_ROWS",
        law="far_rows",
    ),
    Mutant(
        "32-bit address in finish",
        _T,
        "tl.program_id(0).to(tl.int64) * BLOCK_ROWS",
        "tl.program_id(0) * BLOCK_ROWS",
        nth=1,
        law="far_rows",
    ),
    Mutant(
        "32-bit address in accumulate",
        _T,
        "tl.arange(0, BLOCK_ROWS).to(tl.int64)",
        "tl.arange(0, BLOCK_ROWS)",
        law="far_rows",
    ),
    Mutant("not centred", _T, "if HALF and HAS_SHIFT:", "if HALF and HAS_SHIFT and TERMS > 5:"),
    Mutant("offsets of one tile for all", _T, "offsets_ptr + tile * BLOCK_DIRECTIONS", "offsets_ptr"),
    Mutant("only the first term of the directions", _T, "tl.static_range(TERMS)", "tl.static_range(1)"),
    Mutant("split left out", _T, "for _ in range(n_splits)", "for _ in range(n_splits - 1)"),
    Mutant("splits overlap", _T, "first_tile + tiles_per_split,", "first_tile + tiles_per_split + 1,"),
    Mutant("infinite rows pass", _T, 'bad = ~(sq_norms < float("inf"))', "bad = sq_norms != sq_norms", law="bad_rows"),
    Mutant("bad rows keep their dots", _T, "dots = tl.where(bad[:, None], 0.0, dots)", "dots = dots", law="bad_rows"),
    Mutant("every bad row overflowed", _T, "bad & (unfinite == 0)", "bad", law="bad_rows"),
    Mutant(
        "cosine by the squared norm", _T, "tl.sqrt_rn(tl.maximum(sq_norms, MIN_SQ_NORM))", "sq_norms", law="cosines"
    ),
    Mutant("power of two forgotten", _T, "dots *= tl.load(factors_ptr + directions)[None, :]", "dots *= 1.0"),
    Mutant(
        "bad rows spread into z",
        _T,
        "good = row_mask & (tl.load(bad_ptr + rows, mask=row_mask, other=1) == 0)",
        "good = row_mask",
        law="second_product",
    ),
    Mutant("weights of one term", _T, "if TERMS > 1:", "if TERMS > 2:", law="second_product"),
    Mutant("z not centred", _T, "out -= centre[:, None]", "out -= 0.0 * centre[:, None]", law="second_product"),
    Mutant("z not scaled", _T, "out *= scale[:, None]", "out *= 1.0", law="second_product"),
    Mutant("z forgotten", _T, "out += tl.load(place, mask=mask, other=0.0)", "out += 0.0", law="second_product"),
    Mutant(
        "swapped stride of the terms", _T, "group.weights.stride(0),", "group.weights.stride(1),", law="random_shapes"
    ),
    Mutant("shift of the caller", _T, "t.to(torch.float32, copy=True)", "t.to(torch.float32)", law="prepared_once"),
    Mutant("group of directions lost", _T, "first += group.n_directions", "first += 0"),
)
COMPILER_MUTANTS = (
    Mutant("TF32 in project", _T, 'dots, input_precision="ieee"', 'dots, input_precision="tf32"'),
    Mutant("TF32 in accumulate", _T, "out, input_precision=FLOAT32_PRECISION", 'out, input_precision="tf32"'),
    Mutant("half precision widened to TF32", _T, "tl.dot(x, w, dots) if", "tl.dot(y, w.to(tl.float32), dots) if"),
    Mutant(
        "half precision off the tensor cores",
        _T,
        "tl.dot(x, w, dots) if HALF else tl.dot(y, w,",
        "tl.dot(y, w.to(tl.float32),",
    ),
)


def plant(mutant: Mutant, folder: Path) -> None:
    """Put the changed module in the place of the real one, in this process."""
    name = f"skillaxes_kernels.{mutant.module}"
    source = Path(sys.modules[name].__file__ or "").read_text()
    pieces = source.split(mutant.old)
    assert len(pieces) > mutant.nth + 1, f"mutant {mutant.name!r}: {mutant.old!r} is not in {mutant.module}.py"
    at = mutant.nth + 1
    changed = mutant.old.join(pieces[:at]) + mutant.new + mutant.old.join(pieces[at:])
    path = folder / f"{mutant.module}.py"
    path.write_text(changed)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    package, _, last = name.rpartition(".")
    setattr(sys.modules[package], last, module)
    api = sys.modules["skillaxes_kernels.api"]
    api.BACKENDS = tuple(module.FUSED if backend.name == "triton" else backend for backend in api.BACKENDS)


def law_that_breaks(mutant: Mutant) -> str | None:
    names = [mutant.law, *kernel_laws.LAWS] if mutant.law else list(kernel_laws.LAWS)
    for name in names:
        try:
            kernel_laws.LAWS[name](Target("triton"))
        except Exception:
            return name
    return None


def compilation_that_shows() -> str | None:
    from bench.kernels.resources import compile_for, launches

    for dtype in (torch.float16, torch.float32):
        for launch in launches(dtype, 32, n_rows=128, n_columns=1024):
            seen = compile_for(launch, 90)
            half = dtype != torch.float32
            if launch.kernel != "finish_kernel" and (seen.tensor_core > 0) != half:
                return f"{seen.tensor_core} tensor-core instructions in {launch.kernel} for {dtype}"
            if seen.tf32:
                return f"TF32 in {launch.kernel} for {dtype}"
    return None


def verdict(mutant: Mutant, kind: str) -> str | None:
    """The law that the mutant breaks, or None; a crash counts too."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        with tempfile.TemporaryDirectory() as folder:
            plant(mutant, Path(folder))
            found = law_that_breaks(mutant) if kind == "laws" else compilation_that_shows()
        os.write(writer, (found or "").encode() or b"survived")
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        text = answer.read()
    status = os.waitpid(child, 0)[1]
    if status:
        return f"crash (signal {status & 127})" if status & 127 else None
    return None if text == "survived" else text


def main() -> None:
    kind = sys.argv[1]
    torch.set_num_threads(1)
    if kind == "laws":
        kernel_laws.teach_interpreter_bfloat16()
    survivors = 0
    for mutant in MUTANTS if kind == "laws" else COMPILER_MUTANTS:
        noticed = verdict(mutant, kind)
        survivors += noticed is None
        print(f"{mutant.name:44} {'SURVIVES' if noticed is None else 'noticed by ' + noticed}", flush=True)
    sys.exit(1 if survivors else 0)


if __name__ == "__main__":
    main()
