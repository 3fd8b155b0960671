"""Builds the compiled products for CPUs, ``kernels/skillaxes_kernels/csrc``, when skillaxes is installed.

They need a C compiler for x86-64 Linux that knows AMX: $CC, cc, gcc or clang, and where none does the one inside the
PyPI package ziglang, which is fetched for the time of the build. On other processors, or if the compiler fails,
skillaxes is installed without them and computes on CPUs with plain torch; ``skillaxes doctor`` tells which it is.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HERE = Path(__file__).parent
SOURCES = HERE / "kernels" / "skillaxes_kernels" / "csrc"
LIBRARY = HERE / "kernels" / "skillaxes_kernels" / "_native.so"
# Each file for its own instructions; entry.c asks the processor which of them it has before it calls any.
AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma", "-mf16c")
AMX = (*AVX512, "-mamx-tile", "-mamx-bf16")
FLAGS: dict[str, tuple[str, ...]] = {
    "entry.c": (),
    "avx512.c": AVX512,
    "amx.c": AMX,
    "amx_project.c": AMX,
    "amx_accumulate.c": AMX,
}
COMMON = ("-O3", "-std=gnu11", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra")
ZIG = "ziglang>=0.13"


def serves() -> bool:
    """Whether there is anything to build for this machine."""
    return sys.platform == "linux" and platform.machine() in ("x86_64", "AMD64")


def compiler() -> list[str] | None:
    """A C compiler of this machine that knows these instructions, as the beginning of a command."""
    named = os.environ.get("CC")
    found = [named.split()] if named else [[path] for path in map(shutil.which, ("cc", "gcc", "clang")) if path]
    return next(filter(knows, found), None)


def knows(compile_with: list[str]) -> bool:
    """Whether a compiler takes the flags of the newest instructions."""
    command = [*compile_with, *COMMON, *AMX, "-x", "c", "-fsyntax-only", os.devnull]
    try:
        return subprocess.run(command, check=False, capture_output=True).returncode == 0
    except OSError:
        return False


def build(target: Path, compile_with: list[str]) -> None:
    """Compile the library to ``target``, in one step as far as anybody else can see."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="_native-") as folder:
        objects = []
        for source, flags in FLAGS.items():
            objects.append(str(Path(folder, source).with_suffix(".o")))
            command = [*compile_with, *COMMON, *flags, "-c", str(SOURCES / source), "-o", objects[-1]]
            subprocess.run(command, check=True, capture_output=True, text=True)
        made = Path(folder, target.name)
        command = [*compile_with, "-shared", *objects, "-o", str(made)]
        subprocess.run(command, check=True, capture_output=True, text=True)
        made.replace(target)


class NativeBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Hatchling's hook: an editable install has the library in the source tree, a wheel has it inside."""

    def dependencies(self) -> list[str]:
        """What the build itself needs."""
        return [ZIG] if serves() and compiler() is None else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build before the files are collected."""
        if self.target_name != "wheel" or not serves():
            return
        compile_with = compiler() or [sys.executable, "-m", "ziglang", "cc", "-target", "x86_64-linux-gnu"]
        try:
            build(LIBRARY, compile_with)
        except (OSError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stderr", None) or str(error)
            self.app.display_warning(f"products for CPUs were not compiled, plain torch serves instead: {said[:999]}")
            LIBRARY.unlink(missing_ok=True)
            return
        # Plain C, called through ctypes: it fits every Python, but one kind of processor.
        build_data["tag"] = "py3-none-linux_x86_64"
        build_data["pure_python"] = False
        build_data["artifacts"].append(f"/{LIBRARY.relative_to(HERE)}")

    def clean(self, versions: list[str]) -> None:
        """Remove what was built."""
        LIBRARY.unlink(missing_ok=True)
