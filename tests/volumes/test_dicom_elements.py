"""A length that reaches beyond the end of a DICOM file is found before memory is taken for it."""

import struct

import pytest

from diffatlas_pipeline.errors import ImageError
from diffatlas_pipeline.volumes.dicom_elements import begins_as_dicom

LONG = (b"OB", b"OW", b"SQ", b"UN", b"UT")
IMPLICIT, EXPLICIT, BIG_ENDIAN = b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.1", b"1.2.840.10008.1.2.2"
DEFLATED, JPEG = b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.4.70"
UNDEFINED = 0xFFFFFFFF
NAME, UNIT, PIXELS, SEQUENCE = (0x0010, 0x0010), (0x0008, 0x0104), (0x7FE0, 0x0010), (0x0008, 0x2112)
ITEM, ITEM_END, SEQUENCE_END = (0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)


class Writer:
    """Elements in one transfer syntax; ``length`` other than that of the value is damage, or undefined."""

    def __init__(self, syntax: bytes) -> None:
        self.syntax, self.order = syntax, ">" if syntax == BIG_ENDIAN else "<"

    def element(self, tag: tuple[int, int], representation: bytes, value: bytes, length: int | None = None) -> bytes:
        length = len(value) if length is None else length
        start = struct.pack(f"{self.order}HH", *tag)
        if self.syntax == IMPLICIT or tag[0] == 0xFFFE:
            return start + struct.pack(f"{self.order}I", length) + value
        kind = "2xI" if representation in LONG else "H"
        return start + representation + struct.pack(f"{self.order}{kind}", length) + value

    def file(self, content: bytes) -> bytes:
        named = Writer(EXPLICIT).element((0x0002, 0x0010), b"UI", self.syntax + b"\0" * (len(self.syntax) % 2))
        return bytes(128) + b"DICM" + named + content


def nested(writer: Writer, length: int | None = None, undefined: bool = False) -> bytes:
    """A sequence of one item of one element, whose length may be damaged."""
    inner = writer.element(UNIT, b"UT", b"mm", length)
    if not undefined:
        return writer.element(SEQUENCE, b"SQ", writer.element(ITEM, b"", inner))
    item = writer.element(ITEM, b"", inner + writer.element(ITEM_END, b"", b""), UNDEFINED)
    return writer.element(SEQUENCE, b"SQ", item + writer.element(SEQUENCE_END, b"", b""), UNDEFINED)


SYNTAXES = pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN])


@SYNTAXES
@pytest.mark.parametrize("undefined", [False, True])
def test_sound_files_pass(tmp_path, syntax, undefined):
    writer, path = Writer(syntax), tmp_path / "a.dcm"
    content = [
        writer.element(NAME, b"PN", b"Doe^"),
        nested(writer, undefined=undefined),
        writer.element(PIXELS, b"OW", bytes(100)),
    ]
    path.write_bytes(writer.file(b"".join(content)))
    assert begins_as_dicom(path)


@SYNTAXES
@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("length", [100, 0x7FFFFFFF, 0xFFFFFFF0])
def test_a_length_beyond_the_end_is_refused_within_sequences_too(tmp_path, syntax, undefined, length):
    writer, path = Writer(syntax), tmp_path / "a.dcm"
    path.write_bytes(writer.file(writer.element(NAME, b"PN", b"Doe^") + nested(writer, length, undefined)))
    with pytest.raises(ImageError, match=rf"a\.dcm: is damaged: element \(0008,0104\) says that {length:,} bytes follow"):
        begins_as_dicom(path)


@SYNTAXES
def test_pixels_that_are_cut_off_are_refused(tmp_path, syntax):
    writer, path = Writer(syntax), tmp_path / "a.dcm"
    path.write_bytes(writer.file(writer.element(PIXELS, b"OW", bytes(100)))[:-30])
    with pytest.raises(ImageError, match=r"\(7fe0,0010\) says that 100 bytes follow, but 70 are left"):
        begins_as_dicom(path)


def test_fragments_of_compressed_pixels_are_bytes_not_elements(tmp_path):
    """The second fragment would be an item of an absurd length, were it read as elements."""
    writer, path = Writer(JPEG), tmp_path / "a.dcm"
    looks_like_an_element = writer.element(ITEM, b"", b"", 0x7FFFFFFF)
    fragments = [writer.element(ITEM, b"", value) for value in (b"", looks_like_an_element)]
    pixels = writer.element(PIXELS, b"OB", b"".join([*fragments, writer.element(SEQUENCE_END, b"", b"")]), UNDEFINED)
    path.write_bytes(writer.file(pixels))
    assert begins_as_dicom(path)
    path.write_bytes(writer.file(pixels + writer.element(NAME, b"PN", b"Doe^", 1000)))  # what follows is looked at again
    with pytest.raises(ImageError, match=r"\(0010,0010\)"):
        begins_as_dicom(path)


@pytest.mark.parametrize("syntax", [DEFLATED, EXPLICIT])
def test_what_is_not_understood_is_left_to_the_reader(tmp_path, syntax):
    path = tmp_path / "a.dcm"
    path.write_bytes(Writer(syntax).file(b"\x08\x00\x05\x00??\xff\xff\xff\xff\xff\xff"))
    assert begins_as_dicom(path)


@pytest.mark.parametrize("content", [b"", b"DICM", b"notes", bytes(400)])
def test_other_files_are_none(tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    assert not begins_as_dicom(path)


@pytest.mark.parametrize("start", [132, 134, 138, 145, 158])
def test_a_header_that_does_not_say_how_the_rest_is_written_is_refused(tmp_path, start):
    path, content = tmp_path / "a.dcm", Writer(EXPLICIT).file(Writer(EXPLICIT).element(NAME, b"PN", b"Doe^"))
    path.write_bytes(content[:start])
    with pytest.raises(ImageError, match=r"a\.dcm: is damaged: its header ends at byte 132"):
        begins_as_dicom(path)
    path.write_bytes(content[:136] + b"T" + content[137:])  # of the transfer syntax's element
    with pytest.raises(ImageError, match="its header ends at byte 132"):
        begins_as_dicom(path)
