"""The lengths that the elements of a DICOM file name, checked against the file (DICOM PS3.5, section 7.1)."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

from diffatlas_pipeline.errors import ImageError

_PREAMBLE = 132  # bytes before the first element, the last four of them "DICM"
_IMPLICIT, _BIG_ENDIAN = b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.2"
_COMPRESSED = (b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.4.95")  # all elements of the file: their lengths are unknown
_SYNTAX, _PIXELS, _CLASS = (0x0002, 0x0010), (0x7FE0, 0x0010), (0x0002, 0x0002)
_ITEMS, _ITEM, _END = 0xFFFE, (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)
_FIRST_ITEM = b"\xfe\xff\x00\xe0"
_LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}  # 4 bytes of length
_SHORT = set(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())  # 2 bytes of length
_UNDEFINED = 0xFFFFFFFF  # the value ends at a delimiter

Element = tuple[tuple[int, int], int, int]  # tag, where the value starts, its length


def begins_as_dicom(path: Path) -> bool:
    """Whether the file ``path`` begins as DICOM files do. Raises ImageError if one of its elements is longer than what
    is left of the file, or if it does not say how they are written, and OSError if it cannot be read.

    The library that reads the file takes as much memory as an element asks for, up to 4 GiB, before it finds out, and
    keeps it. What follows an element of the data that is not understood is left to it.
    """
    with path.open("rb") as file:
        if file.read(_PREAMBLE)[128:] != b"DICM":
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            syntax, position = _written(content, path)
            order = ">" if syntax == _BIG_ENDIAN else "<"
            read = () if syntax in _COMPRESSED else _data_set(content, position, order, explicit=syntax != _IMPLICIT)
            for (group, element), start, length in read:
                if start + length > len(content):
                    raise ImageError(
                        f"{path}: is damaged: element ({group:04x},{element:04x}) says that {length:,} bytes follow, but "
                        f"{max(len(content) - start, 0):,} are left in the file. Export the series again."
                    )
    return True


def is_dicom(path: Path) -> bool:
    """Whether ``path`` is a file that can be read and begins as DICOM files do, whatever else is in it."""
    try:
        with path.open("rb") as file:
            return file.read(_PREAMBLE)[128:] == b"DICM"
    except OSError:
        return False


def class_of(path: Path) -> str:
    """The UID of what kind of object the DICOM file ``path`` says that it is (its SOP class), "" if it says nothing.

    It stands before the data, so that objects that hold no image tell it, too. OSError if the file cannot be read.
    """
    with path.open("rb") as file:
        if file.read(_PREAMBLE)[128:] != b"DICM":
            return ""
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            found, _ = _first_elements(content)
    return found.get(_CLASS, b"").decode("ascii", errors="replace")


def _written(content: mmap.mmap, path: Path) -> tuple[bytes, int]:
    """The transfer syntax, in which all elements after those of group 2 are written, and where they begin."""
    found, position = _first_elements(content)
    if not found.get(_SYNTAX) or content[position : position + 2] == b"\x02\x00":
        raise ImageError(f"{path}: is damaged: its header ends at byte {position:,}. Export the series again.")
    return found[_SYNTAX], position


def _first_elements(content: mmap.mmap) -> tuple[dict[tuple[int, int], bytes], int]:
    """The elements of group 2 without padding, as far as they can be read, and where they end."""
    values, position = {}, _PREAMBLE
    while content[position : position + 2] == b"\x02\x00":
        found = _explicit(content, position, "<")
        if found is None or found[1] + found[2] > len(content):
            break
        tag, start, length = found
        position = start + length
        values[tag] = content[start:position].rstrip(b"\0 ")
    return values, position


def _data_set(content: mmap.mmap, position: int, order: str, explicit: bool) -> Iterator[Element]:
    """All elements, those within sequences too; an undefined length is given as 0."""
    fragments = False  # within pixel data of undefined length, whose items are bytes and no elements
    while position + 8 <= len(content):
        tag = struct.unpack_from(f"{order}HH", content, position)
        represented = explicit and tag[0] != _ITEMS
        found = (_explicit if represented else _implicit)(content, position, order)
        if found is None:
            return
        tag, start, length = found
        representation = content[position + 4 : position + 6] if represented else b""
        if length == _UNDEFINED:
            if representation == b"UN":  # its items are written in another way
                return
            fragments = fragments or tag == _PIXELS
            length = 0
        yield tag, start, length
        fragments = fragments and tag != _END
        holds_elements = (tag == _ITEM and not fragments) or representation == b"SQ"
        if not explicit and tag != _PIXELS:  # there a sequence shows by its first item
            holds_elements = holds_elements or content[start : start + 4] == _FIRST_ITEM
        position = start if holds_elements else start + length


def _explicit(content: mmap.mmap, position: int, order: str) -> Element | None:
    """The element at ``position``, written with its value representation; None if that is unknown."""
    representation = content[position + 4 : position + 6]
    if representation in _LONG and position + 12 <= len(content):
        *tag, length = struct.unpack_from(f"{order}HH4xI", content, position)
        return (tag[0], tag[1]), position + 12, length
    if representation in _SHORT and position + 8 <= len(content):
        *tag, length = struct.unpack_from(f"{order}HH2xH", content, position)
        return (tag[0], tag[1]), position + 8, length
    return None


def _implicit(content: mmap.mmap, position: int, order: str) -> Element:
    *tag, length = struct.unpack_from(f"{order}HHI", content, position)
    return (tag[0], tag[1]), position + 8, length
