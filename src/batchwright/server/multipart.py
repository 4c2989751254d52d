"""Upload forms, parsed as they arrive: text fields in any order, and the bytes of one file.

Nothing is held but the text fields, each of which has a cap. The low-level parser of
python-multipart finds the boundaries; what a part is, and what is too much, is decided here.
"""

from __future__ import annotations

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, MultipartState, parse_options_header

from batchwright.domain.errors import UsageError
from batchwright.server.errors import UnsupportedBody

PARTS_MAX = 10
PART_HEADER_COUNT_MAX = 8
PART_HEADER_BYTES_MAX = 8 * 2**10
FIELD_BYTES_MAX = 2**10
FILENAME_BYTES_MAX = 255
FILENAME_DEFAULT = "upload"  # what the official SDKs send for bare bytes

FORM_BYTES_MAX = 2**17
"""The most that boundaries, part headers and text fields may add to a file."""


class FormReader:
    """Reads one form: `feed` returns the bytes of the file that a chunk holds, in order.

    `fields` and `filename` are complete after `finish`. The part named `file_field` is the file,
    whether it comes with a file name or without.
    """

    def __init__(self, content_type: str, *, file_field: str) -> None:
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self.has_file = False
        self._file_field = file_field
        self._part = _Part()
        self._parts = 0
        self._pieces: list[bytes] = []
        self._is_whole = False
        self._parser = MultipartParser(
            boundary_of(content_type),
            {
                "on_part_begin": self._begin_part,
                "on_header_field": self._take_header_name,
                "on_header_value": self._take_header_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._end_headers,
                "on_part_data": self._take_data,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
            max_header_count=PART_HEADER_COUNT_MAX,
            max_header_size=PART_HEADER_BYTES_MAX,
        )

    def feed(self, chunk: bytes) -> list[bytes]:
        """Raises `UsageError` for what is no form, or too much of one."""
        if self._is_plain(chunk):
            return [chunk]
        self._pieces = []
        try:
            self._parser.write(chunk)
        except MultipartParseError as error:
            raise UsageError(f"The form cannot be read: {error}.") from error
        return self._pieces

    def finish(self) -> None:
        """Raises `UsageError` if the form ended before its last boundary, or has no file."""
        if not self._is_whole:
            raise UsageError("The form ends before its last boundary.")
        if not self.has_file:
            raise UsageError(
                f"Missing required parameter: '{self._file_field}'.",
                param=self._file_field,
                code="missing_required_parameter",
            )

    def _is_plain(self, chunk: bytes) -> bool:
        """Whether a chunk is the file's throughout: no boundary is without a CR, and none began
        in the chunk before. JSON lines have none, so most of an upload needs no parser."""
        parser = self._parser
        return (
            parser.state == MultipartState.PART_DATA
            and parser.index == 0
            and self._part.name == self._file_field
            and b"\r" not in chunk
        )

    # What the parser calls

    def _begin_part(self) -> None:
        self._parts += 1
        if self._parts > PARTS_MAX:
            raise UsageError(f"The form has more than {PARTS_MAX} parts.")
        self._part = _Part()

    def _take_header_name(self, data: bytes, start: int, end: int) -> None:
        self._part.header_name += data[start:end]

    def _take_header_value(self, data: bytes, start: int, end: int) -> None:
        self._part.header_value += data[start:end]

    def _end_header(self) -> None:
        part = self._part
        if part.header_name.lower() == b"content-disposition":
            part.disposition = bytes(part.header_value)
        part.header_name, part.header_value = bytearray(), bytearray()

    def _end_headers(self) -> None:
        part = self._part
        kind, options = parse_options_header(part.disposition)
        if kind != b"form-data" or b"name" not in options:
            raise UsageError("A part of the form has no name.")
        part.name = options[b"name"].decode(errors="replace")
        is_file = part.name == self._file_field
        if part.name in self.fields or (is_file and self.has_file):
            name = part.name[:64]
            raise UsageError(f"The form has two parts '{name}'.", param=name)
        if is_file:
            self.has_file = True
            self.filename = clean_filename(options.get(b"filename", b""))

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        part = self._part
        if part.name == self._file_field:
            self._pieces.append(data[start:end])
        elif len(part.text) + end - start <= FIELD_BYTES_MAX:
            part.text += data[start:end]
        else:
            raise UsageError(
                f"'{part.name[:64]}' is longer than {FIELD_BYTES_MAX} bytes.", param=part.name[:64]
            )

    def _end_part(self) -> None:
        if self._part.name != self._file_field:
            self.fields[self._part.name] = self._part.text.decode(errors="replace")

    def _end(self) -> None:
        self._is_whole = True


class _Part:
    """The part that is being read."""

    __slots__ = ("disposition", "header_name", "header_value", "name", "text")

    def __init__(self) -> None:
        self.name = ""
        self.disposition = b""
        self.text = bytearray()
        self.header_name = bytearray()
        self.header_value = bytearray()


def boundary_of(content_type: str) -> bytes:
    """The boundary of a form. Raises `UnsupportedBody` for a body that is none."""
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 1 <= len(boundary) <= 70:
        raise UnsupportedBody("Expected a body of type multipart/form-data with a boundary.")
    return boundary


def clean_filename(given: bytes) -> str:
    """A file name as data: never a path of ours, at most 255 bytes, text that any store takes."""
    name = given.decode(errors="replace").replace("\0", "\ufffd") or FILENAME_DEFAULT
    return name.encode()[:FILENAME_BYTES_MAX].decode(errors="ignore")
