"""Forms that bring a file: it goes to the disk as it comes, however large it is."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from preftune.serving.api.errors import ApiError
from preftune.serving.api.limits import FORM_BYTES, MIB, check_length, too_large
from preftune.store.blobs import Incoming

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

PIECE = MIB  # bytes written at once
FIELD_BYTES, HEADER_BYTES, MOST_PARTS = 64 * 1024, 8 * 1024, 20
NAMELESS = "upload"  # what clients call bytes without a name


@dataclass(kw_only=True)
class Form:
    """What a form said beside its file."""

    filename: str | None = None  # None: no file came
    fields: dict[str, str] = field(default_factory=dict)


async def read_form(request: Request, name: str, into: Incoming, *, most: int) -> Form:
    """Read a form whose file is called `name`, and write the file.

    Args:
        request: not read yet.
        name: of the field with the file.
        into: takes the file.
        most: bytes of the file.

    Raises:
        ApiError: 400, no such form or it breaks off; 413, the file is too large.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data" or b"boundary" not in options:
        raise ApiError(400, f"Send a form: multipart/form-data with the file in '{name}'.")
    check_length(request, most + FORM_BYTES)
    reader = _Reader(name)
    try:
        parser = MultipartParser(options[b"boundary"], reader.callbacks())
        async for piece in request.stream():
            parser.write(piece)
            if into.bytes + len(reader.file) > most:
                raise too_large(most)
            if len(reader.file) >= PIECE:
                await run_in_threadpool(into.write, reader.taken())
        parser.finalize()
    except FormParserError as error:
        raise ApiError(400, "The form is broken. Send multipart/form-data.") from error
    if not reader.whole:
        raise ApiError(400, "The form breaks off before its end. Send it again.")
    await run_in_threadpool(into.write, reader.taken())
    return reader.form


class _Reader:
    """Takes what the parser finds in a form."""

    def __init__(self, name: str) -> None:
        self.name, self.form = name, Form()
        self.file = bytearray()  # bytes of the file that were not written yet
        self.whole = False
        self._parts = 0
        self._header, self._value, self._said = bytearray(), bytearray(), b""
        self._field: str = ""
        self._text = bytearray()

    def callbacks(self) -> "MultipartCallbacks":
        """Return what the parser calls."""
        return {
            "on_part_begin": self._begin,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._named,
            "on_end": self._finish,
        }

    def taken(self) -> bytes:
        """Return the bytes of the file so far, and let go of them."""
        taken, self.file = bytes(self.file), bytearray()
        return taken

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > MOST_PARTS:
            raise ApiError(400, f"The form has more than {MOST_PARTS} fields.")
        self._said, self._field, self._text = b"", "", bytearray()

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]
        self._check(self._header, HEADER_BYTES)

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._check(self._value, HEADER_BYTES)

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._said = bytes(self._value)
        self._header, self._value = bytearray(), bytearray()

    def _named(self) -> None:
        """Know which field the part is, now that its headers are read."""
        _, options = parse_options_header(self._said)
        self._field = _text(options.get(b"name", b""), "name of a field")
        if self._field in self.form.fields or (self._field == self.name and self._came):
            raise ApiError(400, f"The form has '{self._field}' twice.", param=self._field)
        if self._field == self.name:
            self.form.filename = _text(options.get(b"filename", b""), "file name") or NAMELESS

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._field == self.name:
            self.file += data[start:end]
        else:
            self._text += data[start:end]
            self._check(self._text, FIELD_BYTES)

    def _end(self) -> None:
        if self._field != self.name:
            self.form.fields[self._field] = _text(self._text, f"field '{self._field}'")

    def _finish(self) -> None:
        self.whole = True

    @property
    def _came(self) -> bool:
        return self.form.filename is not None

    @staticmethod
    def _check(text: bytearray, most: int) -> None:
        if len(text) > most:
            raise ApiError(400, f"A field of the form is longer than {most} bytes.")


def _text(raw: bytes | bytearray, what: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise ApiError(400, f"The {what} is not UTF-8.") from error
