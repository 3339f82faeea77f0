"""Reads text files in any encoding, also gzipped; other formats are refused by name."""

from __future__ import annotations

import codecs
import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from app.cli.failure import CommandFailure

_HEAD = 4096  # bytes read to detect the format
_GZIP = b"\x1f\x8b"
_BOMS = (  # the longer ones first: UTF-32's begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_NO_TEXT = (
    (b"PK\x03\x04", "a zip archive"),
    (b"\xd0\xcf\x11\xe0", "an old Office document (.xls, .doc)"),
    (b"PAR1", "a Parquet file"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
    (b"\xfd7zXZ\x00", "compressed with xz"),
    (b"BZh", "compressed with bzip2"),
    (b"7z\xbc\xaf", "a 7-Zip archive"),
    (b"Rar!", "a RAR archive"),
    (b"ARROW1", "an Arrow file"),
    (b"Obj\x01", "an Avro file"),
    (b"SQLite format 3", "an SQLite database"),
    (b"%PDF-", "a PDF"),
    (b"{\\rtf", "an RTF document"),
)
_PACKED = "Unpack it, or compress it with gzip, and submit that."
_AS_TEXT = "Save it as CSV in UTF-8, or as JSON lines, and submit that."
_ENCODINGS = "Give its encoding, such as --encoding gb18030 (Chinese), cp1252 (Western) or utf-16, or save it as UTF-8."


@dataclass(frozen=True, slots=True)
class TextFile:
    """A file to read as text. `encoding`: "" for UTF-8 or the byte order mark's; `label`: its name in messages."""

    path: Path
    label: str
    encoding: str = ""

    def head(self) -> str:
        """Roughly its first 4,096 characters. Raises CommandFailure as `open` does."""
        with self._bytes() as file:
            head = file.read(_HEAD)
        return head.decode(self._encoding_of(head), "replace").removeprefix("\ufeff")

    @contextmanager
    def open(self, newline: str) -> Iterator[IO[str]]:
        """Open the text without its byte order mark. Raises CommandFailure if it is not text."""
        with self._bytes() as file:
            head = file.read(_HEAD)
            file.seek(0)
            encoding = self._encoding_of(head)
            try:
                with io.TextIOWrapper(file, encoding, newline=newline) as text:
                    yield _without_mark(text)
            except UnicodeError:
                raise self._undecodable(encoding) from None

    @contextmanager
    def _bytes(self) -> Iterator[IO[bytes]]:
        try:
            with self.path.open("rb") as file:
                packed = file.read(len(_GZIP)) == _GZIP
                file.seek(0)
                yield cast("IO[bytes]", gzip.GzipFile(fileobj=file)) if packed else file
        except (gzip.BadGzipFile, EOFError, zlib.error):
            raise CommandFailure(f"{self.label}: is a corrupt gzip file", "Compress it again.") from None
        except OSError as error:
            raise CommandFailure(f"{self.label}: cannot be read ({error.strerror or error})") from None

    def _encoding_of(self, head: bytes) -> str:
        self._refuse_no_text(head)
        marked = next((name for mark, name in _BOMS if head.startswith(mark)), None)
        if self.encoding or marked:
            return self.encoding or marked or ""
        if b"\x00" not in head:
            return "utf-8"
        even, odd = head[::2].count(0), head[1::2].count(0)  # in Western UTF-16 text, every second byte is 0
        if max(even, odd) <= 3 * min(even, odd):
            raise CommandFailure(f"{self.label}: is not text (it contains NUL bytes)", _AS_TEXT)
        return "utf-16-le" if odd > even else "utf-16-be"

    def _refuse_no_text(self, head: bytes) -> None:
        name = next((name for magic, name in _NO_TEXT if head.startswith(magic)), None)
        if head[257:262] == b"ustar":
            name = "a tar archive"
        if name is None:
            return
        if name == "a zip archive" and self._is_workbook():
            name = "an Excel workbook (.xlsx)"
        packed = name.startswith("compressed") or name.endswith("archive")
        raise CommandFailure(
            f"{self.label}: is {name}, which is not supported", _PACKED if packed else _AS_TEXT
        )

    def _is_workbook(self) -> bool:
        try:
            with zipfile.ZipFile(self.path) as packed:
                return any(name.startswith("xl/") for name in packed.namelist())
        except (OSError, zipfile.BadZipFile):
            return self.path.suffix.lower() in (".xlsx", ".xlsm")

    def _undecodable(self, encoding: str) -> CommandFailure:
        if encoding != "utf-8" or self.encoding:
            return CommandFailure(f"{self.label}: cannot be read as {encoding}", _ENCODINGS)
        with self._bytes() as file:
            number = next((number for number, line in enumerate(file, 1) if not _is_utf8(line)), 1)
        return CommandFailure(f"{self.label}, line {number}: is not UTF-8", _ENCODINGS)


def _without_mark(text: IO[str]) -> IO[str]:
    """Skip a byte order mark, whichever codec left it there."""
    if text.read(1) not in ("\ufeff", ""):
        text.seek(0)
    return text


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True
