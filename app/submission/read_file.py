"""Reads a file of any kind that is supported, with little of it in memory: unpacked, decoded, as text or as rows."""

from __future__ import annotations

import bz2
import codecs
import csv
import io
import lzma
import re
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from app.submission.domain.file_kind import (
    COMPRESSED,
    ENCODING_HINT,
    BadFile,
    Fault,
    binary_kind,
    delimiter_of,
    encoding_of,
    is_spaced,
    not_read,
    text_kind,
    told_delimiter,
)

if TYPE_CHECKING:
    from openpyxl.workbook import Workbook

LONGEST = 10 * 1024 * 1024  # characters of a line, a row or a value, unless the reader is given another limit
_HEAD = 64 * 1024  # bytes by which the kind of a file is recognised
_BLOCK = 256 * 1024  # bytes read at once
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reading:
    """How to read a file; empty values are detected. `sheet`: a name or a number from 1."""

    kind: str = ""
    encoding: str = ""
    delimiter: str = ""
    sheet: str = ""
    column: str = ""
    template: str = ""
    longest: int = LONGEST
    most_bytes: int | None = None  # of the unpacked file
    no_prompts: bool = False  # lines of plain text are not requests: they are refused as JSON that is none


class Source(NamedTuple):
    """A file to read: `file` can seek; `label` names it in messages, `name` has its suffix."""

    file: IO[bytes]
    label: str
    name: str


class Row(NamedTuple):
    """A row: its number, as a spreadsheet shows it, and its cells."""

    number: int
    cells: list[Any]


# -- bytes ---------------------------------------------------------------------------------------------------------


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


_MOST_XZ_MEMORY = 128 * 1024 * 1024  # bytes: an xz file says how much its reader needs


def _zstd() -> _Decompressor:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    made: _Decompressor = zstd.ZstdDecompressor()
    return made


_DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    "gzip": lambda: zlib.decompressobj(wbits=31),
    "bzip2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(memlimit=_MOST_XZ_MEMORY),
    "zstd": _zstd,
}


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    file.seek(0)
    return iter(lambda: file.read(_BLOCK), b"")


def _unpacked(blocks: Iterator[bytes], kind: str, label: str) -> Iterator[bytes]:
    """The content of a compressed file of one or more members. Raises BadFile when it is damaged."""
    new = _DECOMPRESSORS[kind]
    member = new()
    try:
        for block in blocks:
            while block:
                if member.eof:
                    member = new()
                yield from _pieces(member, block)
                block = member.unused_data.lstrip(b"\x00") if member.eof else b""
        whole = member.eof
    except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError) as error:
        raise _damaged(label, kind, str(error)) from None
    except Exception as error:
        if type(error).__name__ != "ZstdError":
            raise
        raise _damaged(label, kind, str(error)) from None
    if not whole:
        raise _damaged(label, kind, "it ends too early")


def _pieces(member: Any, block: bytes) -> Iterator[bytes]:
    """What one block holds, never more than a block at once: a small file may hold very much."""
    yield member.decompress(block, _BLOCK)
    while not member.eof:
        left = getattr(member, "unconsumed_tail", b"")
        if not left and getattr(member, "needs_input", True):
            return
        yield member.decompress(left, _BLOCK)


def _damaged(label: str, kind: str, why: str) -> BadFile:
    return BadFile(
        [Fault(label, f"is a corrupt {kind} file ({why})", "Compress it again, or submit it unpacked.")]
    )


def _counted(blocks: Iterable[bytes], most: int | None, label: str) -> Iterator[bytes]:
    size = 0
    for block in blocks:
        size += len(block)
        if most is not None and size > most:
            words = f"holds more than {most:,} bytes when unpacked"
            raise BadFile([Fault(label, words, "Submit it in parts.", code="file_too_large")])
        yield block


def _peek(blocks: Iterator[bytes], size: int) -> tuple[bytes, Iterator[bytes]]:
    """The first bytes, and all blocks including them."""
    held = b""
    while len(held) < size and (block := next(blocks, b"")):
        held += block
    return held[:size], chain((held,), blocks)


# -- text ----------------------------------------------------------------------------------------------------------

_END_OF_FILE = b"\x1a"  # Ctrl-Z: programs of DOS and Windows still write it
_ASCII = bytes(range(128))
_SAMPLE = 64 * 1024  # bytes of lines that are not ASCII, by which an encoding is detected
_LIKELY = (
    "GB18030", "Big5", "CP932", "EUC-JP", "CP949", "EUC-KR", "Windows-1252", "Windows-1251", "Windows-1250", "KOI8-R",
    "Windows-1253", "Windows-1254", "Windows-1255", "Windows-1256",
)  # fmt: skip
_UNREADABLE = "\udcff"  # stands for bytes that are no text, until its line is refused


def _mark(error: UnicodeError) -> tuple[str, int]:
    return _UNREADABLE, getattr(error, "end", 0)


codecs.register_error("penstock-unreadable", _mark)


class Text:
    """A text file on its way through, as UTF-8. `note` says which encoding was detected."""

    def __init__(self, blocks: Iterator[bytes], label: str, encoding: str) -> None:
        head, self._rest = _peek(blocks, _HEAD)
        self._label = label
        self.encoding = encoding or encoding_of(head, label)
        self.note = ""
        self.start, self._utf8 = _peek(self._decoded(), _HEAD)
        self.head = self.start.decode("utf-8", "replace")

    def blocks(self) -> Iterator[bytes]:
        """Its bytes in UTF-8; bytes that are no text are kept as bytes that are no UTF-8."""
        return self._utf8

    @contextmanager
    def open(self, newline: str | None) -> Iterator[IO[str]]:
        """The text as a file. Bytes that are no text are lone surrogates in it."""
        raw = io.BufferedReader(_Stream(self._utf8), _BLOCK)
        with io.TextIOWrapper(raw, "utf-8", "surrogateescape", newline) as file:
            yield file

    def unreadable(self, where: str, number: int) -> Fault:
        """The fault of a line with bytes that are no text."""
        return Fault(
            self._label, f"is not {self.encoding.upper()}", ENCODING_HINT, where, number, "invalid_encoding"
        )

    def _decoded(self) -> Iterator[bytes]:
        decoded = self._as_utf8() if self.encoding == "utf-8" else self._recoded(self.encoding, self._rest)
        held = b""
        for block in filter(None, decoded):
            if held:
                yield held
            held = block if held else block.removeprefix(codecs.BOM_UTF8)
        yield held.removesuffix(_END_OF_FILE)

    def _as_utf8(self) -> Iterator[bytes]:
        """UTF-8 as it is. If the first text that is not ASCII is no UTF-8 either, what it is instead, from there on."""
        told, blocks = False, _whole_lines(self._rest)
        for block in blocks:
            if not told and not block.isascii():
                told = True
                start = block.rfind(b"\n", 0, len(block) - len(block.lstrip(_ASCII))) + 1
                yield block[:start]
                block = block[start:]
                if not _mostly_utf8(block):
                    sample, rest = _peek(chain((block,), blocks), _SAMPLE)
                    self._detect(sample)
                    yield from self._recoded(self.encoding, rest)
                    return
            yield block

    def _detect(self, sample: bytes) -> None:
        import chardet

        lines = b"\n".join(line for line in sample.splitlines() if not line.isascii())[:_SAMPLE]
        era = chardet.EncodingEra.MODERN_WEB
        found = chardet.detect(lines, encoding_era=era, include_encodings=frozenset(_LIKELY))["encoding"]
        name = codecs.lookup(found or "cp1252").name
        if _same(lines, name, "cp1252"):
            euro = b"\xa4" in lines and not re.search(rb"[\x80-\x9f]", lines)
            name = "iso8859-15" if euro else "cp1252" if name == "cp1250" else name
        self.encoding = name
        shown = lines.decode(self.encoding, "replace").strip().splitlines()
        example = shown[0][:60] if shown else ""
        self.note = f"{self._label}: read as {self.encoding}: {example!r}. If that is wrong, give --encoding."

    def _recoded(self, encoding: str, blocks: Iterable[bytes]) -> Iterator[bytes]:
        decoder = codecs.getincrementaldecoder(encoding)("penstock-unreadable")
        for block in blocks:
            yield decoder.decode(block).encode("utf-8", "surrogateescape")
        yield decoder.decode(b"", final=True).encode("utf-8", "surrogateescape")


def _mostly_utf8(block: bytes) -> bool:
    lines = [line for line in block.split(b"\n") if not line.isascii()]
    return sum(map(_is_utf8, lines)) * 2 > len(lines)


def _is_utf8(line: bytes) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        decoder.decode(line, final=len(line) < _BLOCK)  # a longer line may be cut off within a character
    except UnicodeDecodeError:
        return False
    return True


def _same(text: bytes, one: str, other: str) -> bool:
    try:
        return text.decode(one) == text.decode(other)
    except UnicodeDecodeError:
        return False


def _whole_lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Blocks that end with a line, where lines are not too long: no character is cut in two."""
    held = b""
    for block in blocks:
        held += block
        end = held.rfind(b"\n") + 1
        if end or len(held) > _BLOCK:
            yield held[: end or len(held)]
            held = held[end:] if end else b""
    if held:
        yield held


class _Stream(io.RawIOBase):
    """An iterator of blocks as a file."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._held = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._held:
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._held = memoryview(block)
        size = min(len(buffer), len(self._held))
        buffer[:size], self._held = self._held[:size], self._held[size:]
        return size


def too_long(label: str, where: str, number: int, longest: int) -> Fault:
    """The fault of a line or a value above the limit."""
    return Fault(
        label, f"is longer than {longest:,} characters", "Split it.", where, number, "request_too_large"
    )


@dataclass(frozen=True, slots=True)
class OpenedFile:
    """A file whose kind is known: `text` of a text file, `rows` of a table, which begin with its header."""

    kind: str
    text: Text | None = None
    rows: Iterator[Row] | None = None


def open_file(source: Source, how: Reading) -> OpenedFile:
    """Open a file for what it is, by its content. Raises BadFile for what is not read."""
    blocks, label = _blocks(source.file), source.label
    head, blocks = _peek(blocks, _HEAD)
    kind, words = binary_kind(head)
    if kind in COMPRESSED:
        blocks = _counted(_unpacked(blocks, kind, label), how.most_bytes, label)
        head, blocks = _peek(blocks, _HEAD)
        inner, words = binary_kind(head)
        if inner != "text":
            raise not_read(label, f"{words} inside a compressed file")
        kind = inner
    if kind == "zip":
        kind, words = _kind_of_zip(source)
    if kind == "xlsx":
        return OpenedFile(kind, rows=_sheet_rows(source, how))
    if kind == "parquet":
        return OpenedFile(kind, rows=_parquet_rows(source))
    if kind != "text":
        raise not_read(label, words)
    return _open_text(blocks, source, how)


def _open_text(blocks: Iterator[bytes], source: Source, how: Reading) -> OpenedFile:
    text = Text(blocks, source.label, how.encoding)
    named = bool(how.column or how.template or how.delimiter)
    kind = how.kind or text_kind(text.head, source.name, source.label, table=named)
    if kind == "txt" and how.no_prompts:
        kind = "jsonl"
    return OpenedFile(
        kind, text, _csv_rows(text, how, kind, source.label) if kind in ("csv", "tsv") else None
    )


# -- tables --------------------------------------------------------------------------------------------------------

_QUOTES = 'Close it; a quote inside a cell is written twice: "".'
_OPEN_QUOTE = "unexpected end of data"


class _Lines:
    """The lines of a file for csv's reader; `size` counts the characters of the row that it is reading."""

    def __init__(self, file: IO[str], longest: int) -> None:
        self._file = file
        self._longest = longest
        self.size = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._file.readline(self._longest + 1)
        if not line:
            raise StopIteration
        self.size += len(line)
        if self.size > self._longest:
            raise csv.Error(f"longer than {self._longest:,} characters")
        return line


def _csv_rows(text: Text, how: Reading, kind: str, label: str) -> Iterator[Row]:
    """The rows of a CSV file, without blank lines. Raises BadFile at a quote that cannot be read over."""
    csv.field_size_limit(2**31 - 1)  # `_Lines` has a limit for the whole row
    told = told_delimiter(text.head)
    delimiter = how.delimiter or told or ("\t" if kind == "tsv" else delimiter_of(text.head))
    number = line = 1
    with text.open("") as file:
        lines = _Lines(file, how.longest)
        spaced = is_spaced(text.head, delimiter)
        reader = csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=spaced)
        try:
            for cells in reader:
                if cells and not (told and number == 1):
                    yield Row(number, cells)
                number, line, lines.size = number + 1, reader.line_num + 1, 0
        except csv.Error as error:
            raise BadFile([_broken_row(label, number, line, str(error))]) from None


def _broken_row(label: str, number: int, line: int, error: str) -> Fault:
    words = f"has a stray quote ({error})"
    if error == _OPEN_QUOTE:
        words = "opens a quote that is never closed"
    elif error.startswith("longer"):
        words = f"is {error}: it may open a quote that is never closed"
    where = f"row {number}" if line == number else f"row {number} (line {line})"
    return Fault(label, words, _QUOTES, where, number)


def _needs(label: str, words: str, library: str) -> BadFile:
    install = f'{sys.executable} -m pip install "penstock[files]"'
    return BadFile(
        [
            Fault(
                label,
                f"is {words}; reading it needs {library}",
                f"Install it: {install}",
                code="unsupported_file",
            )
        ]
    )


# Excel's own limits are 1,048,576 rows and 32,767 characters of a cell.
_MOST_ROWS = 1_100_000
_MOST_STRINGS = 128 * 1024 * 1024  # bytes of the table of a workbook's texts, which is held in memory
_MOST_PART = 16 * 1024 * 1024  # bytes of another part that is held in memory
_MOST_BETWEEN_ROWS = 64 * 1024 * 1024  # bytes: what stands between the ends of two rows is held in memory
_ROW_END = (b"</row>", b"<row")


def _kind_of_zip(source: Source) -> tuple[str, str]:
    try:
        with zipfile.ZipFile(source.file) as packed:
            names = set(packed.namelist())
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return "", "a damaged ZIP archive"
    if "xl/workbook.bin" in names:
        return "", "a binary Excel workbook (.xlsb)"
    if "xl/workbook.xml" in names:
        return "xlsx", "an Excel workbook"
    office = {"word/document.xml": "a Word document", "ppt/presentation.xml": "a presentation"}
    words = next((words for name, words in office.items() if name in names), "a ZIP archive")
    return "", "an OpenDocument file" if "content.xml" in names and "mimetype" in names else words


def _check_workbook(source: Source) -> None:
    """Refuse a workbook that would take more memory than its size lets expect, before a parser sees it."""
    with zipfile.ZipFile(source.file) as packed:
        for part in packed.infolist():
            name = part.filename
            if name.startswith("xl/worksheets/") and name.endswith(".xml"):
                fits = _has_rows(packed, name)
            elif name.lower() == "xl/sharedstrings.xml":
                fits = part.file_size <= _MOST_STRINGS
            else:
                kept = name.startswith(
                    ("xl/workbook", "xl/styles", "xl/theme", "docProps", "[")
                ) or name.endswith(".rels")
                fits = not kept or part.file_size <= _MOST_PART
            if not fits:
                words = f"is an Excel workbook whose part {name!r} is too large"
                raise BadFile(
                    [
                        Fault(
                            source.label,
                            words,
                            "Save it as CSV in UTF-8 and submit that.",
                            code="file_too_large",
                        )
                    ]
                )


def _has_rows(packed: zipfile.ZipFile, name: str) -> bool:
    since = 0
    with packed.open(name) as part:
        while block := part.read(1024 * 1024):
            since = 0 if any(mark in block for mark in _ROW_END) else since + len(block)
            if since > _MOST_BETWEEN_ROWS:
                return False
    return True


def _sheet_rows(source: Source, how: Reading) -> Iterator[Row]:
    """The rows of one sheet, without blank ones. Formulas count as what they last gave."""
    try:
        from openpyxl import load_workbook
    except ImportError:
        raise _needs(source.label, "an Excel workbook", "openpyxl") from None
    try:
        _check_workbook(source)
        source.file.seek(0)
        book = load_workbook(source.file, read_only=True, data_only=True, keep_links=False)
        sheet = _sheet(book, how.sheet, source.label)
        sheet.reset_dimensions()  # what a file claims of itself may be wrong
        for number, cells in enumerate(sheet.iter_rows(values_only=True), 1):
            if number > _MOST_ROWS:
                raise BadFile(
                    [Fault(source.label, f"has more than {_MOST_ROWS:,} rows", "Submit it in parts.")]
                )
            if any(cell is not None for cell in cells):
                yield Row(number, list(cells))
    except (
        zipfile.BadZipFile,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        IndexError,
        OSError,
        SyntaxError,
    ) as error:
        words = f"is a damaged Excel workbook ({type(error).__name__})"
        raise BadFile(
            [Fault(source.label, words, "Open it in Excel and save it again, or as CSV in UTF-8.")]
        ) from None


def _sheet(book: Workbook, wanted: str, label: str) -> Any:
    """The sheet to read: named, by number, or the only one that is shown and holds something."""
    sheets = {sheet.title: sheet for sheet in book.worksheets}
    names = list(sheets)
    if wanted:
        number = int(wanted) if wanted.isdecimal() and len(wanted) < 5 else 0
        if wanted not in sheets and not 1 <= number <= len(names):
            raise BadFile(
                [
                    Fault(
                        label,
                        f"no sheet {wanted!r}; sheets: {', '.join(names[:20])}",
                        "Choose one with --sheet.",
                    )
                ]
            )
        return sheets.get(wanted) or sheets[names[number - 1]]
    shown = [name for name in names if sheets[name].sheet_state == "visible"] or names
    filled = [name for name in shown if _holds_something(sheets[name])] if len(shown) > 1 else shown
    if len(filled) > 1:
        words = f"has {len(filled)} sheets: {', '.join(filled[:20])}"
        raise BadFile([Fault(label, words, f'Choose one, such as --sheet "{filled[0]}".')])
    if not names:
        raise BadFile(
            [Fault(label, "is an Excel workbook without sheets", "Save the table as CSV in UTF-8.")]
        )
    return sheets[(filled or shown)[0]]


def _holds_something(sheet: Any) -> bool:
    sheet.reset_dimensions()
    rows = sheet.iter_rows(max_row=1000, values_only=True)
    return any(cell is not None for row in rows for cell in row)


def _values(column: Any) -> list[Any]:
    """The values of a column; nanoseconds, as pandas writes them, are cut to what Python has."""
    import pyarrow as pa

    kind: Any = column.type
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        column = column.cast(pa.timestamp("us", kind.tz), safe=False)
    elif pa.types.is_duration(kind) and kind.unit == "ns":
        column = column.cast(pa.duration("us"), safe=False)
    return list(column.to_pylist())


_ROWS_AT_ONCE = 64  # of a Parquet file: each may hold much more than its share of the file


def _parquet_rows(source: Source) -> Iterator[Row]:
    """The column names as row 0, then the rows of a Parquet file, from 1."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise _needs(source.label, "a Parquet file", "pyarrow") from None
    try:
        source.file.seek(0)
        table = parquet.ParquetFile(source.file, buffer_size=_BLOCK)
        yield Row(0, list(table.schema_arrow.names))
        batches = table.iter_batches(_ROWS_AT_ONCE, use_threads=False)
        rows = (row for batch in batches for row in zip(*map(_values, batch.columns), strict=True))
        for number, cells in enumerate(rows, 1):
            yield Row(number, list(cells))
    except (ArrowException, OSError, ValueError) as error:
        words = f"is a damaged Parquet file ({str(error)[:200]})"
        raise BadFile([Fault(source.label, words, "Write it again, or submit it as JSON lines.")]) from None
