"""Members of a mapped zip file: views of stored members, streams of compressed ones."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from skillaxes.errors import SourceError

ZIP_MAGIC = b"PK\x03\x04"
_HEADER = 30  # bytes of a local file header, before name and extra field


class ViewFile(io.RawIOBase):
    """A read-only file over a view, which is not copied."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._data)}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        piece = self._data[self._at : self._at + len(buffer)]
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)


# Errors of zipfile and zlib over damaged, encrypted or unusual files.
_DAMAGE = (zipfile.BadZipFile, zlib.error, ValueError, OSError, RuntimeError, EOFError, struct.error)


@contextmanager
def unzipping() -> Iterator[None]:
    """Errors of zipfile and zlib in this context become SourceErrors."""
    try:
        yield
    except _DAMAGE as error:
        raise SourceError(f"the file is a damaged or unusual zip: {' '.join(str(error).split())}") from error


@dataclass(frozen=True)
class Member:
    """One member of a zip."""

    archive: zipfile.ZipFile
    info: zipfile.ZipInfo
    data: memoryview  # of the whole zip

    @property
    def compressed(self) -> bool:
        return self.info.compress_type != zipfile.ZIP_STORED

    def stored(self) -> memoryview:
        """The bytes of a member that is not compressed, as a view of the zip."""
        if self.compressed:
            raise SourceError(f"{self.info.filename} is compressed within its file; needed: as torch.save writes it")
        begin = self.info.header_offset
        header = bytes(self.data[begin : begin + _HEADER])
        if len(header) < _HEADER or header[:4] != ZIP_MAGIC:
            raise SourceError(f"{self.info.filename} is not where the file says; the file is damaged")
        begin += _HEADER + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        if begin + self.info.file_size > len(self.data):
            raise SourceError(f"{self.info.filename} is cut off; the file is damaged")
        return self.data[begin : begin + self.info.file_size]

    def open(self) -> IO[bytes]:
        """The bytes of a member as a stream, decompressed."""
        return self.archive.open(self.info)


def members(data: memoryview) -> dict[str, Member]:
    """The members of a zip by name.

    Raises
    ------
    SourceError : damaged
    """
    with unzipping():
        archive = zipfile.ZipFile(io.BufferedReader(ViewFile(data)))
    return {info.filename: Member(archive, info, data) for info in archive.infolist()}
