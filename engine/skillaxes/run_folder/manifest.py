"""``manifest.json``: options, store, effort and findings of a job."""

from __future__ import annotations

import json
import math
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from skillaxes.errors import RunFolderError
from skillaxes.files import remove, write_json
from skillaxes.run_folder.schema import (
    CHECKPOINT,
    DIRECTIONS,
    FORMAT_VERSION,
    LABELS,
    MANIFEST,
    RENAMED,
    REPORT,
    SCORES,
    SELECTION,
    TOPK,
    Manifest,
)

RUNNING, DONE, STOPPED, FAILED = "running", "done", "stopped", "failed"
_JOB_FILES = (DIRECTIONS, SCORES, TOPK, SELECTION, LABELS, REPORT, CHECKPOINT)
_PACKAGES = ("skillaxes", "torch", "numpy", "zarr", "zarrs", "triton", "pyarrow", "safetensors")


def read_manifest(run_dir: Path) -> Manifest:
    """The manifest of a run folder.

    Raises
    ------
    RunFolderError : no run folder, a damaged manifest, or one of a later format
    """
    try:
        manifest = json.loads((Path(run_dir) / MANIFEST).read_text(encoding="utf-8"))
        version = manifest["format_version"]
    except FileNotFoundError:
        raise RunFolderError(
            f"{run_dir} is no run folder: it holds no {MANIFEST}; make one with `skillaxes discover STORE {run_dir}`"
        ) from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunFolderError(
            f"{run_dir}: {MANIFEST} cannot be read ({error}); run the job again with --overwrite"
        ) from None
    if version > FORMAT_VERSION:
        raise RunFolderError(
            f"{run_dir} has format {version}, this skillaxes reads up to {FORMAT_VERSION}: update skillaxes"
        )
    return {**_as_version_2(manifest), "format_version": FORMAT_VERSION} if version < 2 else manifest


def write_manifest(run_dir: Path, manifest: Manifest) -> None:
    """Write the manifest atomically; NaN and infinity become null."""
    write_json(run_dir / MANIFEST, _plain(manifest))


def mark_failed(run_dir: Path, message: str) -> None:
    """Set the status of a running job to failed, with ``message`` as the reason.

    Raises
    ------
    RunFolderError : no run folder
    """
    manifest = read_manifest(run_dir)
    if manifest.get("status") == RUNNING:
        manifest["status"], manifest["failure"] = FAILED, message
        write_manifest(run_dir, manifest)


def claim(run_dir: Path, command: str, config: dict[str, Any], fingerprint: str, overwrite: bool) -> Manifest | None:
    """Compare a run folder with a job that is about to begin; with ``overwrite``, clear it.

    Parameters
    ----------
    run_dir : the folder, which may not exist yet
    command : ``discover`` or ``apply``
    config : the options that change the result
    fingerprint : of the store
    overwrite : remove the results of any job that is there

    Returns
    -------
    The manifest of the same job if it has begun before, else None.

    Raises
    ------
    RunFolderError : another job without ``overwrite``, or a folder of other files
    """
    if run_dir.exists() and not run_dir.is_dir():
        raise RunFolderError(f"{run_dir} is a file; type the name of a folder for the results")
    if not (run_dir / MANIFEST).exists():
        if run_dir.exists() and any(not name.startswith(".") for name in os.listdir(run_dir)):
            raise RunFolderError(
                f"{run_dir} holds files and no {MANIFEST}: it is no run folder; type the name of a new one"
            )
        return None
    if overwrite:
        _refuse_foreign(run_dir)
        clear(run_dir)
        return None
    before = read_manifest(run_dir)
    differences = _differences(before, command, _plain(config), fingerprint)
    if differences:
        raise RunFolderError(
            f"{run_dir} holds another job ({'; '.join(differences)}): type another folder, or --overwrite to replace it"
        )
    return before


def clear(run_dir: Path) -> None:
    """Remove the files of a job, and no others."""
    for name in (*_JOB_FILES, MANIFEST):
        remove(run_dir / name)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a job uses."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine(device: str, threads: int, memory_bytes: int) -> dict[str, Any]:
    """The machine of a job: platform, processor, threads, memory and device."""
    cpu = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {
        "platform": platform.platform(),
        "cpu": cpu,
        "threads": threads,
        "memory_bytes": memory_bytes,
        "device": device,
    }


def _as_version_2(value: Any) -> Any:
    """A manifest of format version 1, or a value in one, with the keys of version 2."""
    if isinstance(value, dict):
        return {RENAMED.get(key, key): _as_version_2(item) for key, item in value.items()}
    return [_as_version_2(item) for item in value] if isinstance(value, list) else value


def _refuse_foreign(run_dir: Path) -> None:
    """Refuse a ``manifest.json`` that no job wrote: the name is common.

    Raises
    ------
    RunFolderError : it lacks the keys of a manifest
    """
    try:
        found = json.loads((run_dir / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # a damaged manifest: --overwrite replaces it
    if not (isinstance(found, dict) and {"format_version", "command"} <= found.keys()):
        raise RunFolderError(
            f"{run_dir} holds a {MANIFEST} that no job of skillaxes wrote, so it is not replaced; type another folder"
        )


def _differences(before: Manifest, command: str, config: dict[str, Any], fingerprint: str) -> list[str]:
    if before.get("command") != command:
        return [f"it was made by `skillaxes {before.get('command')}`"]
    found = []
    if before.get("store", {}).get("fingerprint") != fingerprint:
        found.append("another store")
    was = before.get("config", {})
    for name, value in config.items():
        if was.get(name) != value:
            found.append(f"--{name.replace('_', '-')} was {_show(was.get(name))}, now {_show(value)}")
    return found


def _show(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _plain(value: Any) -> Any:
    """``value`` in types of JSON: tuples as lists, NaN and infinity as null, numbers of numpy and torch as numbers."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
