"""Opening a store: every check at the door, and the choice of what decodes it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from skillaxes.errors import StoreError
from skillaxes.store.attributes import COMPLETE, OURS, fit, parse
from skillaxes.store.dtypes import DTYPES
from skillaxes.store.reading import Store

_ZARRS = "zarrs.ZarrsCodecPipeline"
_NAMED = 8  # arrays of a group that a message names


def _is_url(path: Path | str) -> bool:
    return isinstance(path, str) and "://" in path


def _check_path(path: Path | str) -> None:
    if _is_url(path):
        return
    place = Path(path)
    if not place.exists():
        raise StoreError(f"there is no store at {path}; make one with `skillaxes ingest SOURCE {path}`")
    if place.is_file():
        raise StoreError(
            f"{path} is a file; needed: a zarr store (a folder), made from it with `skillaxes ingest {path} STORE`"
        )


def _default_pipeline(config: Any) -> str:
    return str(config.defaults[0]["codec_pipeline"]["path"])


def _open(path: Path | str, pipeline: str, *, strict: bool) -> Any:
    import zarr

    from skillaxes.store.bfloat16 import bfloat16_known

    with bfloat16_known(), zarr.config.set({"codec_pipeline.path": pipeline, "codec_pipeline.strict": strict}):
        return zarr.open(path, mode="r")


def _why_not_zarrs(array: Any) -> str | None:
    """Why zarr's own pipeline should decode this array although ``zarrs`` may be there; None if it should not."""
    from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec

    codecs: tuple[Any, ...] = getattr(array.metadata, "codecs", ())
    if len(codecs) == 1 and isinstance(codecs[0], ShardingCodec):
        codecs = codecs[0].codecs
    if [type(codec) for codec in codecs] == [BytesCodec, Crc32cCodec]:
        return "zarr checks the crc32c of large uncompressed chunks faster than zarrs"
    return None


def _choose_pipeline(path: Path | str, plain: Any) -> tuple[Any, str, str]:
    """(array, pipeline, reason), given the array opened by zarr's own pipeline."""
    why_not = _why_not_zarrs(plain)
    if why_not is not None:
        return plain, "zarr", why_not
    try:
        import zarrs  # noqa: F401
    except ImportError:
        return plain, "zarr", "the package zarrs is not installed"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _open(path, _ZARRS, strict=True), "zarrs", "zarrs decodes these codecs"
    except Exception as error:  # whatever zarrs objects to, zarr's own pipeline serves
        cause = " ".join(str(error.__cause__ or error).split()) or type(error).__name__
        return plain, "zarr", f"zarrs declined: {cause}"


def _refuse_group(path: Path | str, group: Any) -> StoreError:
    found = [f"{name} {member.shape}" for name, member in group.members(max_depth=None) if hasattr(member, "shape")]
    if not found:
        return StoreError(f"{path} is a zarr group without arrays; needed: an array of activations, one row per trace")
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return StoreError(
        f"{path} is a zarr group; name the array in it, e.g. {str(path).rstrip('/')}/{found[0].split(' ')[0]} "
        f"(it holds {', '.join(found[:_NAMED])}{more})"
    )


def _dtype_name(path: Path | str, array: Any) -> str:
    from skillaxes.store.bfloat16 import BFloat16

    kind = array.metadata.data_type if array.metadata.zarr_format == 3 else array.metadata.dtype
    name = "bfloat16" if isinstance(kind, BFloat16) else array.dtype.newbyteorder("=").name
    if name not in DTYPES:
        raise StoreError(
            f"{path} holds {name}; needed: {', '.join(DTYPES)}; "
            f"convert it, e.g. x.astype('float32'), and ingest it again"
        )
    return str(name)


def _check_shape(path: Path | str, shape: tuple[int, ...]) -> None:
    if len(shape) not in (2, 3):
        raise StoreError(
            f"{path} has shape {shape}; needed: (rows, features) or (rows, layers, hidden), one row per trace"
        )
    if 0 in shape:
        raise StoreError(f"{path} has shape {shape}: there is nothing in it; needed: at least one row and one column")


def open_store(path: Path | str, *, layers: Sequence[int] | None = None) -> Store:
    """Open a store of activations for reading.

    Parameters
    ----------
    path : a zarr array (v3 or v2): a folder, or a URL that fsspec knows
    layers : layer ids whose columns are wanted (``Store.columns``); all by default

    Raises
    ------
    StoreError : nothing there, a group, not finished by its writer, another shape or dtype than a store has,
        attributes that do not fit the shape, unknown layers
    """
    _check_path(path)
    try:
        found = _open(path, "zarr.core.codec_pipeline.BatchedCodecPipeline", strict=False)
    except FileNotFoundError:
        raise StoreError(f"{path} is no zarr store: it has neither zarr.json nor .zarray") from None
    except Exception as error:
        cause = " ".join(str(error).split())
        raise StoreError(f"{path} cannot be opened as a zarr store: {cause}") from error
    if not hasattr(found, "shape"):
        raise _refuse_group(path, found)
    state = found.attrs.get(OURS)
    if isinstance(state, dict) and state.get(COMPLETE) is False:
        raise StoreError(
            f"{path} is unfinished: its writer was stopped before it closed the store; write it again, "
            f"or have every part's writer close()"
        )
    _check_shape(path, found.shape)
    dtype = _dtype_name(path, found)
    try:
        attributes = fit(parse(found.attrs), found.shape[1:])
    except StoreError as error:
        raise StoreError(f"the attributes of {path} do not fit it: {error}") from None
    array, pipeline, reason = _choose_pipeline(path, found)
    n_features = 1
    for extent in found.shape[1:]:
        n_features *= extent
    store = Store(
        path=path,
        shape=tuple(found.shape),
        dtype=dtype,
        attributes=attributes,
        columns=(slice(0, n_features),),
        pipeline=pipeline,
        pipeline_reason=reason,
        array=array,
    )
    if layers is None:
        return store
    from dataclasses import replace

    return replace(store, columns=store.columns_of(layers))
