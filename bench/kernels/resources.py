"""Registers, spills, shared memory and tensor-core instructions of the fused kernels; no GPU, no driver.

    python -m bench.kernels.resources            prints the table
    python -m bench.kernels.resources --write    writes it to bench/kernels/RESOURCES.md

The launches that the host code makes are recorded and compiled, specialised as Triton's launcher does (pointers and
integers divisible by 16, integers equal to 1).
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

ARCHITECTURES = (80, 90, 100)
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}  # bytes a program may have, CUDA programming guide
TENSOR_CORE = {80: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma"}
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
KERNELS = ("project_kernel", "finish_kernel", "accumulate_kernel")
_OPTIONS = ("num_warps", "num_stages", "enable_fp_fusion")


@dataclass(frozen=True)
class Launch:
    """One recorded launch: arguments by name (tensors, integers), constants, compiler options."""

    kernel: str
    arguments: dict[str, Any]
    constants: dict[str, Any]
    options: dict[str, int]


@dataclass(frozen=True)
class Resources:
    """The compiler's result for a launch. ``stack`` and ``spills`` in bytes a thread, ``shared`` in bytes."""

    registers: int
    stack: int
    spills: int
    shared: int
    tensor_core: int
    tf32: bool


def launches(
    dtype: torch.dtype,
    n_directions: int,
    *,
    n_rows: int = 256,
    n_columns: int = 16_384,
    rounded: bool = True,
    **how: Any,
) -> list[Launch]:
    """The launches of ``project`` and ``accumulate`` for a panel; ``how`` may be cheap, cosines, plain (no shift)."""
    from skillaxes_kernels.backends import triton as fused
    from skillaxes_kernels.rounding import rounded as rounded_block
    from skillaxes_kernels.types import PanelSpec

    panel = torch.ones((n_rows, n_columns), dtype=dtype)
    directions = torch.full((n_columns, n_directions), 1 / 3)
    vector = None if how.get("plain") else torch.ones(n_columns)
    if rounded and dtype != torch.float32:
        directions = rounded_block(directions, dtype, vector)
    epilogue = "cosines" if how.get("cosines") else "dots"
    with _recording() as seen:
        prepared = fused.FUSED.prepare(PanelSpec.of(panel), directions, vector, vector)
        projection = fused.FUSED.project((panel,), prepared, epilogue=epilogue, bad=None)
        z, weights = torch.zeros((n_columns, n_directions)), torch.ones((n_rows, n_directions))
        fused.FUSED.accumulate(z, projection, weights, bits=8 if how.get("cheap") else 24)
    return seen


def compile_for(launch: Launch, architecture: int) -> Resources:
    """Compile a launch ahead of time for one architecture."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from skillaxes_kernels.backends import triton as fused

    kernel = getattr(fused, launch.kernel).compiled
    signature, constants, attributes = {}, dict(launch.constants), {}
    for place, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
            continue
        value = launch.arguments[name]
        aligned = (value.data_ptr() if isinstance(value, torch.Tensor) else value) % 16 == 0
        if isinstance(value, torch.Tensor):
            signature[name] = "*" + _type_name(value.dtype)
        elif value == 1 and not kernel.params[place].do_not_specialize:
            signature[name], constants[name] = "constexpr", 1
            continue
        else:
            signature[name] = "i32" if value < 2**31 else "i64"
        if aligned and not kernel.params[place].do_not_specialize:
            attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=launch.options)
    return _resources(compiled.asm["ptx"], compiled.metadata.shared, architecture)


def table() -> str:
    """The table of all launches and architectures, in Markdown."""
    lines = [
        "# Resources of the fused kernels",
        "",
        "Compiled ahead of time, by `python -m bench.kernels.resources --write`, with "
        f"torch {torch.__version__}, triton {_triton_version()}. **No card has run these kernels yet.**",
        "Another Triton gives other registers and shared memory; the tests hold whichever is installed to no spills.",
        "",
        "Registers and spills (bytes) a thread, shared memory (bytes) a program, tensor-core instructions in the",
        "PTX (`mma.sync` for sm_80, `wgmma.mma_async` for sm_90, `tcgen05.mma` for sm_100). float32 panels are",
        "multiplied by ordinary fused multiply-adds, so that no operand is rounded to TF32.",
        "",
        "| kernel | dtype | directions | terms | architecture | registers | spills | shared | tensor cores |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for dtype_name, dtype in DTYPES.items():
        for n_directions in (16, 32, 64, 128):
            for rounded in (True, False) if dtype != torch.float32 and n_directions <= 64 else (True,):
                for launch in launches(dtype, n_directions, rounded=rounded):
                    if launch.kernel != "project_kernel" and (not rounded or n_directions > 64):
                        continue
                    half = dtype != torch.float32
                    terms = launch.constants.get("TERMS", "") if half else ""
                    for architecture in ARCHITECTURES:
                        r = compile_for(launch, architecture)
                        lines.append(
                            f"| `{launch.kernel}` | {dtype_name} | {launch.constants['BLOCK_DIRECTIONS']} "
                            f"| {terms} | sm_{architecture} | {r.registers} | {r.spills} "
                            f"| {r.shared} | {r.tensor_core} |"
                        )
    return "\n".join(lines) + "\n"


@contextmanager
def _recording() -> Iterator[list[Launch]]:
    from skillaxes_kernels.backends import triton as fused

    seen: list[Launch] = []
    before = {name: getattr(fused, name) for name in KERNELS}
    for name in KERNELS:
        setattr(fused, name, _Recorder(name, before[name].compiled.arg_names, seen))
    try:
        yield seen
    finally:
        for name, kernel in before.items():
            setattr(fused, name, kernel)


class _Recorder:
    def __init__(self, name: str, arg_names: list[str], seen: list[Launch]) -> None:
        self.name, self.arg_names, self.seen = name, arg_names, seen

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def record(*values: Any, **keywords: Any) -> None:
            options = {key: keywords.pop(key) for key in _OPTIONS if key in keywords}
            self.seen.append(Launch(self.name, dict(zip(self.arg_names, values, strict=False)), keywords, options))

        return record


def _resources(ptx: str, shared: int, architecture: int) -> Resources:
    from triton.backends.nvidia.compiler import get_ptxas

    target = re.search(r"\.target (\w+)", ptx)
    assert target is not None
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(ptx)
        command = [get_ptxas(architecture).path, "-v", "--gpu-name", target[1], str(source), "-o", os.devnull]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    stack, stores, loads = _numbers(
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", report
    )
    (registers,) = _numbers(r"Used (\d+) registers", report)
    instructions = len(re.findall(rf"\b{re.escape(TENSOR_CORE[architecture])}\b", ptx))
    tf32 = re.search(r"[.:]tf32\b", ptx) is not None  # .tf32 of mma and wgmma, kind::tf32 of tcgen05
    return Resources(registers, stack, stores + loads, shared, instructions, tf32)


def _numbers(pattern: str, text: str) -> tuple[int, ...]:
    found = re.search(pattern, text)
    assert found is not None, text
    return tuple(map(int, found.groups()))


def _type_name(dtype: torch.dtype) -> str:
    return {torch.uint8: "u8", torch.int32: "i32", **{dtype: name for name, dtype in DTYPES.items()}}[dtype]


def _triton_version() -> str:
    import triton

    return str(triton.__version__)


def main() -> None:
    """Print the table; with ``--write`` also write it to RESOURCES.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the table next to this file")
    arguments = parser.parse_args()
    text = table()
    print(text)
    if arguments.write:
        Path(__file__).with_name("RESOURCES.md").write_text(text)


if __name__ == "__main__":
    main()
