"""``manifest.json``: what a job was asked, on which store, how it went and what it found."""

from __future__ import annotations

import json
import math
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any, cast

from skillaxes.errors import RunFolderError
from skillaxes.files import remove, write_json
from skillaxes.run_folder.schema import (
    CHECKPOINT,
    DIRECTIONS,
    FORMAT_VERSION,
    LABELS,
    MANIFEST,
    REPORT,
    SCORES,
    SELECTION,
    TOPK,
    Manifest,
)

RUNNING, DONE, STOPPED, FAILED = "running", "done", "stopped", "failed"
_OURS = (DIRECTIONS, SCORES, TOPK, SELECTION, LABELS, REPORT, CHECKPOINT)
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
    return _as_version_2(manifest) if version < 2 else manifest


def write_manifest(run_dir: Path, manifest: Manifest) -> None:
    """Put the manifest in place, atomically; NaN becomes null."""
    write_json(run_dir / MANIFEST, _plain(manifest))


def mark_failed(run_dir: Path, message: str) -> None:
    """Put on record that the job has failed, and why; what the manifest says else stays."""
    manifest = read_manifest(run_dir)
    if manifest.get("status") == RUNNING:
        manifest["status"], manifest["failure"] = FAILED, message
        write_manifest(run_dir, manifest)


def claim(run_dir: Path, command: str, config: dict[str, Any], fingerprint: str, overwrite: bool) -> Manifest | None:
    """Hold a run folder against a job that is about to begin.

    Parameters
    ----------
    run_dir : the folder; need not exist
    command : ``discover`` or ``apply``
    config : the options that change the result
    fingerprint : of the store
    overwrite : start afresh whatever is there

    Returns
    -------
    The manifest of the same job where it is done or was begun, else None. Results of another job are gone afterwards.

    Raises
    ------
    RunFolderError : the folder belongs to something else, and what differs
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
    """Take away what a job wrote; files that are not ours stay."""
    for name in (*_OURS, MANIFEST):
        remove(run_dir / name)


def versions() -> dict[str, str]:
    """Versions of what computes."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine(device: str, threads: int, memory_bytes: int) -> dict[str, Any]:
    """Where a job runs."""
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


def _as_version_2(manifest: dict[str, Any]) -> Manifest:
    """A manifest of format version 1 with the names of version 2."""
    found = dict(manifest)
    if "announcements" in found:
        found["diagnostics"] = found.pop("announcements")
    if "directions" in found:
        found["directions"] = [
            {"certified" if name == "settled" else name: value for name, value in entry.items()}
            for entry in found["directions"]
        ]
    return cast(Manifest, found)


def _refuse_foreign(run_dir: Path) -> None:
    """A manifest.json is a common name: what was not made by a job is not replaced."""
    try:
        found = json.loads((run_dir / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # a damaged one, which is what --overwrite is for
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
    """JSON's own types: tuples as lists, NaN and infinity as null, numbers of libraries as numbers."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
