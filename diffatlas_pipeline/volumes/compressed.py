"""Compressed voxels whose checksum is verified, and that take no more memory than their header announces."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

GZIP = b"\x1f\x8b"
_GZIP_BITS, _ZLIB_BITS = 31, 15
_BLOCK_BYTES = 1 << 20
_LONGEST_HEADER = 1 << 20


def decompressed(content: bytes, most: int) -> bytes:
    """The content of a gzip file, whose checksums are verified, of at most ``most`` bytes. zlib.error or EOFError
    otherwise.
    """
    parts, left = [], most
    while content[:2] == GZIP:  # a file may have several members, one after the other
        stream = zlib.decompressobj(_GZIP_BITS)
        parts.append(stream.decompress(content, left + 1))
        left -= len(parts[-1])
        if left < 0:
            raise EOFError(f"holds more than the {most} bytes that its header announces")
        if not stream.eof:
            raise EOFError("the compressed data end too early")
        content = stream.unused_data.lstrip(b"\0")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def first_bytes(content: bytes, count: int) -> bytes:
    """The first ``count`` bytes of the content of a gzip file. zlib.error if it is damaged there."""
    return zlib.decompressobj(_GZIP_BITS).decompress(content, count)


def check_data_file(path: Path) -> None:
    """ValueError if the header of a MetaImage or NRRD file finds its voxels in another folder, or in a list of files,
    which may lie anywhere: a stranger's header must not make this program read them.
    """
    _voxels(path)


def check_checksum(path: Path) -> None:
    """Verify the checksum of the compressed voxels of a MetaImage or NRRD file, which ITK reads over.

    Uncompressed voxels have none; MetaImage's is Adler-32, which misses a few errors in a thousand. ValueError if the
    data are damaged, or as :func:`check_data_file`.
    """
    name, start, bits = _voxels(path)
    if bits:
        _verify(path if name is None else path.with_name(name), 0 if name else start, bits)


def _voxels(path: Path) -> tuple[str | None, int, int]:
    """The data file (None: this file), where the voxels begin, and how they are compressed (0: not at all)."""
    with path.open("rb") as file:
        header = file.read(_LONGEST_HEADER)
    name, start, bits = _nrrd(header) if header.startswith(b"NRRD") else _meta(header)
    if name is None:
        return name, start, bits
    if name.upper().startswith("LIST") or "%" in name:
        raise ValueError("its voxels are in a list of files; write them into one")
    if Path(name).name != name:
        raise ValueError(f"its data file {name!r} lies in another folder")
    return name, start, bits


def _meta(header: bytes) -> tuple[str | None, int, int]:
    data = re.search(rb"^\s*ElementDataFile\s*=[ \t]*([^\r\n]*)\r?\n?", header, re.MULTILINE)
    if data is None:
        raise ValueError("its header names no data")
    compressed = re.search(rb"^CompressedData\s*=\s*True", header[: data.start()], re.MULTILINE | re.IGNORECASE)
    name = data.group(1).strip().decode("utf-8", errors="replace")
    return None if name.upper() == "LOCAL" else name, data.end(), _ZLIB_BITS if compressed else 0


def _nrrd(header: bytes) -> tuple[str | None, int, int]:
    end = re.search(rb"\r?\n\r?\n", header)
    text = header[: end.start() if end else len(header)]
    encoding = re.search(rb"^encoding:\s*(\w+)", text, re.MULTILINE)
    data = re.search(rb"^data ?file:\s*([^\r\n]*)", text, re.MULTILINE)
    gzip = encoding is not None and encoding.group(1).lower() in (b"gzip", b"gz")
    name = None if data is None else data.group(1).strip().decode("utf-8", errors="replace")
    return name, end.end() if end else len(header), _GZIP_BITS if gzip else 0


def _verify(path: Path, start: int, bits: int) -> None:
    stream = zlib.decompressobj(bits)
    with path.open("rb") as file:
        file.seek(start)
        while not stream.eof:
            block = file.read(_BLOCK_BYTES)
            if not block:
                raise ValueError("its compressed data end too early")
            while block and not stream.eof:
                try:
                    stream.decompress(block, _BLOCK_BYTES)
                except zlib.error as error:
                    raise ValueError(f"its compressed data are damaged: {error}") from error
                block = stream.unconsumed_tail
