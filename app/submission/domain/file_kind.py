"""What a file is, by its content: binary formats, encodings, JSON, tables with their delimiter, or plain lines."""

from __future__ import annotations

import codecs
import csv
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from app.platform.domain.errors import Invalid

MOST_FAULTS = 100  # listed for one file
MOST_COLUMNS = 16_384  # Excel's own limit
DELIMITERS = ",;\t|"
TEXT_KINDS = ("jsonl", "csv", "tsv", "txt")
TABLES = ("csv", "tsv", "xlsx", "parquet")


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong. `where` is "row 4", "line 3"; "" for the whole file, `number` then 0."""

    label: str
    message: str
    hint: str = ""
    where: str = ""
    number: int = 0
    code: str = "invalid_value"
    param: str | None = None

    def __str__(self) -> str:
        return (
            f"{self.label}, {self.where}: {self.message}" if self.where else f"{self.label}: {self.message}"
        )


class BadFile(Invalid):
    """Ends the reading of a file: with one fault that leaves nothing to read, or with all that were found."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__(str(faults[0]), code=faults[0].code)
        self.faults = list(faults)


class Faults:
    """Collects faults of one submission. A reader goes on after one, so that a person sees all of them."""

    def __init__(self, most: int = MOST_FAULTS) -> None:
        self.found: list[Fault] = []
        self._most = most

    def add(self, fault: Fault) -> None:
        """Note a fault. Raises BadFile with all of them when there are too many to go on."""
        self.found.append(fault)
        if len(self.found) >= self._most:
            raise BadFile(self.found)

    def check(self) -> None:
        """Raise BadFile if there is any."""
        if self.found:
            raise BadFile(self.found)


# -- binary formats ------------------------------------------------------------------------------------------------

_AS_TEXT = "Save it as CSV in UTF-8, or as JSON lines, and submit that."
_UNPACK = "Unpack it, and submit the file or the folder."
_SIGNATURES: tuple[
    tuple[int, bytes, str, str], ...
] = (  # where, first bytes, kind ("": not read), what it is
    (0, b"\x1f\x8b", "gzip", "compressed with gzip"),
    (0, b"\x28\xb5\x2f\xfd", "zstd", "compressed with zstd"),
    (0, b"BZh", "bzip2", "compressed with bzip2"),
    (0, b"\xfd7zXZ\x00", "xz", "compressed with xz"),
    (0, b"PAR1", "parquet", "a Parquet file"),
    (0, b"PARE", "", "an encrypted Parquet file"),
    (0, b"PK\x03\x04", "zip", "a ZIP archive"),
    (0, b"PK\x05\x06", "zip", "an empty ZIP archive"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "", "an old Office document or a workbook with a password"),
    (0, b"\x04\x22\x4d\x18", "", "compressed with lz4"),
    (0, b"\xff\x06\x00\x00sNaPpY", "", "compressed with snappy"),
    (0, b"\x1f\x9d", "", "compressed with compress"),
    (0, b"7z\xbc\xaf\x27\x1c", "", "a 7-Zip archive"),
    (0, b"Rar!\x1a\x07", "", "a RAR archive"),
    (257, b"ustar", "", "a tar archive"),
    (0, b"ARROW1", "", "an Arrow file"),
    (0, b"FEA1", "", "a Feather file"),
    (0, b"ORC", "", "an ORC file"),
    (0, b"Obj\x01", "", "an Avro file"),
    (0, b"version https://git-lfs.github.com/spec/", "", "a Git LFS pointer and not the file itself"),
    (0, b"<stata_dta>", "", "a Stata file"),
    (0, b"SQLite format 3\x00", "", "an SQLite database"),
    (0, b"\x89HDF\r\n", "", "an HDF5 file"),
    (0, b"\x93NUMPY", "", "a NumPy file"),
    (0, b"{\\rtf", "", "an RTF document"),
    (0, b"\x89PNG", "", "an image (PNG)"),
    (0, b"\xff\xd8\xff", "", "an image (JPEG)"),
    (0, b"GIF8", "", "an image (GIF)"),
    (0, b"II*\x00", "", "an image (TIFF)"),
    (0, b"MM\x00*", "", "an image (TIFF)"),
    (8, b"WEBP", "", "an image (WebP)"),
    (4, b"ftyp", "", "a video or an image (MP4, HEIC)"),
    (0, b"ID3", "", "audio (MP3)"),
    (0, b"OggS", "", "audio (Ogg)"),
    (0, b"fLaC", "", "audio (FLAC)"),
    (8, b"WAVEfmt", "", "audio (WAV)"),
    (0, b"\x1a\x45\xdf\xa3", "", "a video (Matroska, WebM)"),
    (0, b"\x7fELF", "", "a program"),
)
_MARKUP = re.compile(r"\s*<(?:!doctype\s+html|html|\?xml|svg|table|rss)\b", re.IGNORECASE)
COMPRESSED = ("gzip", "zstd", "bzip2", "xz")


def binary_kind(head: bytes) -> tuple[str, str]:
    """The kind that the first bytes tell ("" if it is not read, "text" if they tell none), and what it is in words."""
    for place, signature, kind, words in _SIGNATURES:
        if head.startswith(signature, place):
            return kind, words
    if head[:1024].lstrip(b"\xef\xbb\xbf\r\n\t ").startswith(b"%PDF-"):
        return "", "a PDF"
    if head[:2] == b"BM" and head[6:10] == b"\x00\x00\x00\x00":
        return "", "an image (BMP)"
    return "text", "text"


def not_read(label: str, words: str) -> BadFile:
    """The refusal of a format that is not read."""
    hint = _UNPACK if words.startswith("compressed") or "archive" in words else _AS_TEXT
    if "Git LFS" in words:
        return BadFile([Fault(label, f"is {words}", "Fetch the file with: git lfs pull")])
    return BadFile([Fault(label, f"is {words}, which is not supported", hint)])


# -- encodings -----------------------------------------------------------------------------------------------------

ENCODING_HINT = (
    "Give its encoding, such as --encoding gb18030 (Chinese), cp1252 (Western) or utf-16, "
    "or save it as UTF-8."
)
_MARKS = (  # the longer ones first: UTF-32's begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_NO_TEXT = f"{_AS_TEXT} If it is UTF-16 without a byte order mark, give --encoding utf-16-le."
_MOST_CONTROLS = 0.02  # of the first bytes; more is no text


def encoding_of(head: bytes, label: str) -> str:
    """The encoding that the first bytes tell; UTF-8 if they say nothing else. Raises BadFile if they are no text."""
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name
    if b"\x00\x00\x00" in head and (wide := _wide(head)):
        return wide
    if b"\x00" in head and (wide := _double(head)):
        return wide
    _check_text(head, label)
    return "iso2022_jp" if re.search(rb"\x1b\$[@B]", head) else "utf-8"


def _wide(head: bytes) -> str:
    """UTF-32 without a mark: three of four bytes are 0, nearly always."""
    zeros = [head[place::4].count(0) for place in range(4)]
    least = len(head) // 4 * 0.9
    if min(zeros[1:]) >= least > zeros[0]:
        return "utf-32-le"
    return "utf-32-be" if min(zeros[:3]) >= least > zeros[3] else ""


def _double(head: bytes) -> str:
    """UTF-16 without a mark: in Western text and in a header every second byte is 0."""
    even, odd = head[::2].count(0), head[1::2].count(0)
    if max(even, odd) <= 3 * min(even, odd) or max(even, odd) * 20 < len(head):
        return ""
    ends = head.count(b"\n\x00" if odd > even else b"\x00\n")
    if ends * 2 < head.count(b"\n"):
        return ""  # its line ends are single bytes: the NULs are faults of the text
    return "utf-16-le" if odd > even else "utf-16-be"


def _check_text(head: bytes, label: str) -> None:
    controls = sum(head.count(value) for value in range(32) if value not in b"\t\n\v\f\r\x1a\x1b\x1e")
    if controls and controls > max(1, len(head) * _MOST_CONTROLS):
        raise BadFile(
            [Fault(label, "is not text (it contains NUL bytes or other control characters)", _NO_TEXT)]
        )


# -- text ----------------------------------------------------------------------------------------------------------

_BY_NAME = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".txt": "txt",
}  # fmt: skip
_PACKED_NAMES = (".gz", ".zst", ".zstd", ".bz2", ".xz")
_NAME = re.compile(r"[^\W\d][\w .()/#%-]{0,39}")
_JSON = re.compile(r"[\s\x1e]*(?:\[\s*[{\"\[\]]|{\s*(?:\"|}))")
_NEARLY_JSON = re.compile(r"\s*(?:(?:\[\s*)?{\s*(?:['\u2018\u201c]\w|\w+\s*:)|\[\s*['\u2018\u201c]\w)")
_EVENTS = re.compile(r"\s*(?:event:.*\s+)?data:[ \t]*[{\[]")
_YAML = re.compile(
    r"\s*(?:---[ \t]*\n|#.*\n)*(?:(?:requests|prompts|data):[ \t]*\n\s*-|- (?:prompt|custom_id|messages):\s)"
)
_PROMPTS_NAMES = (".txt", ".text", ".prompt", ".prompts", ".list", ".lst", ".in", ".input")
_SEP = re.compile(r"\"?sep=(.)\"?[\r\n]", re.IGNORECASE)
_WHICH = "Give the format: --kind csv, tsv or jsonl; or --kind txt to send each line as a prompt."
_KNOWN = {"prompt", "custom_id", "messages"}


def text_kind(head: str, name: str, label: str, *, table: bool = False) -> str:
    """The kind of a text file: by content, and by name where the content may be several. `table`: columns are named.

    Raises BadFile for what would be sent as prompts by mistake.
    """
    suffixes = [suffix for suffix in re.findall(r"\.[^.]+", name.lower()) if suffix not in _PACKED_NAMES]
    by_name = _BY_NAME.get(suffixes[-1], "") if suffixes else ""
    if _MARKUP.match(head):
        raise not_read(label, "HTML or XML")
    if _JSON.match(head) or (by_name in ("", "txt") and _NEARLY_JSON.match(head)):
        return "jsonl"
    if table or by_name in ("csv", "tsv"):
        return by_name if by_name in ("csv", "tsv") else "csv"
    found = _as_table(head)
    if by_name == "jsonl":
        if found in ("tabs", "columns"):
            raise BadFile([Fault(label, f"looks like a table ({found}), not JSON", _WHICH)])
        return found or "jsonl"
    if found and by_name == "txt":
        raise BadFile([Fault(label, f"looks like a table ({found}), not prompts", _WHICH)])
    if found in ("tabs", "columns"):
        raise BadFile([Fault(label, f"looks like a table ({found}), not prompts", _WHICH)])
    if not found:
        _check_prompts(head, suffixes[-1] if suffixes else "", label)
    return found or "txt"


def _check_prompts(head: str, suffix: str, label: str) -> None:
    """Raise BadFile for lines that are no prompts by their form, or by the file's name."""
    looks = "a stream of events" if _EVENTS.match(head) else "YAML" if _YAML.match(head) else ""
    if any(map(_is_rule, head.splitlines()[:50])):
        looks = "a table drawn with characters"
    if looks:
        hint = f"{_AS_TEXT} If each line is a prompt, give --kind txt."
        raise BadFile([Fault(label, f"looks like {looks}, not prompts", hint)])
    if re.fullmatch(r"\.[a-z]\w*", suffix) and suffix not in _PROMPTS_NAMES:
        words = f"is plain text, and its name ends with {suffix}"
        raise BadFile([Fault(label, words, "If each line is a prompt, give --kind txt.")])


def _is_rule(line: str) -> bool:
    """Whether it is the rule below the header of a Markdown table, or around a table of a console."""
    return "---" in line and ("|" in line or "+" in line) and not set(line) - set("|+-=: \t\r")


def _as_table(head: str) -> str:
    """`csv` or `tsv` with a header that names our columns; `tabs` or `columns` if it may be another table; else ""."""
    if _SEP.match(head):
        return "csv"
    lines = [line for line in head.splitlines()[:50] if line.strip()]
    if len(lines) > 1 and lines[0].strip().strip('"') == "prompt":
        return "csv"  # a table of one column
    for delimiter in "\t,;|" if lines else "":
        cells = lines[0].split(delimiter)
        names = [cell.strip().strip('"') for cell in cells]
        if len(names) > 1 and all(map(_NAME.fullmatch, names)):
            if _KNOWN & {name.casefold() for name in names}:
                return "tsv" if delimiter == "\t" else "csv"
            prose = any(cell.startswith(" ") for cell in cells)
            if not prose and len(_widths(lines, delimiter)) == 1 and len(lines) > 1:
                return "tabs" if delimiter == "\t" else "columns"
    if len(lines) > 1 and len(_widths(lines, "\t")) == 1 and "\t" in lines[0]:
        return "tabs"
    return ""


def _widths(lines: Sequence[str], delimiter: str) -> set[int]:
    return {len(cells) for cells in csv.reader(lines, delimiter=delimiter)}


def told_delimiter(head: str) -> str:
    """The delimiter that a first line such as `sep=;` (Excel's own) tells; "" without one."""
    found = _SEP.match(head)
    return found[1] if found else ""


def delimiter_of(head: str) -> str:
    """The delimiter that splits most rows like the header; a comma if none splits it."""
    lines = [line for line in head.lstrip("\r\n").splitlines()[:200] if line.strip()]
    lines = lines[:-1] or lines  # the last one may be cut off

    def fit(delimiter: str) -> tuple[bool, int, int]:
        rows = [len(cells) for cells in csv.reader(lines, delimiter=delimiter)]
        return rows[0] > 1, rows.count(rows[0]), rows[0]

    try:
        return max(DELIMITERS, key=fit) if lines and max(map(fit, DELIMITERS))[0] else ","
    except csv.Error:
        return ","


def is_spaced(head: str, delimiter: str) -> bool:
    """Whether the header has a space behind each delimiter: a quote behind it then opens a cell."""
    first = head.lstrip().split("\n", 1)[0]
    return delimiter != " " and delimiter in first and first.count(delimiter) == first.count(f"{delimiter} ")


# -- JSON ----------------------------------------------------------------------------------------------------------

_AS_BATCH = 'Write it as {"custom_id": "1", "messages": [{"role": "user", "content": "..."}]}.'
_FOREIGN = (  # a field, what it is, what to do
    ("params", "a line of Anthropic's Message Batches API", _AS_BATCH),
    ("contents", "a request of Gemini's API", _AS_BATCH),
    ("request", "a line of another API's batch", _AS_BATCH),
    ("modelInput", "a line of a Bedrock batch", _AS_BATCH),
    ("conversations", "a conversation in ShareGPT's form", _AS_BATCH),
    ("response", "a result of a batch, not a request", "Submit the batch's input file."),
    ("role", "one message, not a request", 'Put all messages of a request into one: {"messages": [...]}.'),
)


def other_shape(value: Any) -> tuple[str, str]:
    """What a JSON value is that is no request, and what to do; ("", "") if it may be one."""
    if isinstance(value, list):
        one = isinstance(value[0], dict) if value else False
        return (
            "is neither a text nor an object, but a list",
            _AS_BATCH if one else 'Write each row as an object: {"prompt": ...}.',
        )
    if (
        not isinstance(value, dict)
        or isinstance(value.get("prompt"), str)
        or {"messages", "body"} & set(value)
    ):
        return "", ""
    if (
        isinstance(value.get("prompt"), list)
        and value["prompt"]
        and all(isinstance(one, dict) for one in value["prompt"])
    ):
        return "its prompt is a list of messages", 'Name it "messages", or give --column prompt.'
    held = {name: part for name, part in value.items() if isinstance(part, list | dict) and part}
    if value and len(held) == len(value) and (len(value) > 1 or "prompt" in value):
        hint = 'Write one object a line; with pandas: to_json(FILE, orient="records", lines=True).'
        return "is a table by columns, or several requests in one object", hint
    for name, words, hint in _FOREIGN:
        if name in value:
            return f"is {words}", hint
    inner = next((name for name, part in held.items() if isinstance(part, list)), "")
    if inner and isinstance(held[inner][0], str | dict) and inner not in ("metadata", "parameters"):
        return f"holds a list under {inner!r}", f"Submit that list alone, such as jq .{inner} FILE."
    if any(name.casefold() in _LIKE for name in value) and "prompt" not in value:
        columns = list(value)
        return f"no field 'prompt'; fields: {_listed(columns)}", _column_hint("prompt", columns, "")
    return "", ""


# -- tables --------------------------------------------------------------------------------------------------------


def header(cells: Iterable[str], label: str, where: str) -> list[str]:
    """The columns' names. Raises BadFile for doubled names and for too many."""
    names = [cell.strip().strip("\ufeff\u200b") for cell in cells]
    while names and not names[-1]:
        names.pop()
    if len(names) > MOST_COLUMNS:
        words = f"has {len(names):,} columns; at most {MOST_COLUMNS:,} are read"
        raise BadFile([Fault(label, words, "Keep the columns that the prompt needs.", where)])
    counts = Counter(filter(None, names))
    doubled = [name for name, count in counts.items() if count > 1]
    if doubled:
        faults = [Fault(label, f"has two columns named {name!r}", "Rename one of them.") for name in doubled]
        raise BadFile(faults[:MOST_FAULTS])
    return names


_FIELD = re.compile(r"{([^{}]+)}")
_LIKE = (
    "question",
    "text",
    "input",
    "content",
    "query",
    "instruction",
    "message",
    "提示",
    "提示词",
    "问题",
    "文本",
    "内容",
)


def fields_of(template: str) -> list[str]:
    """The columns that a template names. Raises BadFile for an unpaired brace."""
    pieces = re.split(r"({{|}})", template)
    plain = [piece for piece in pieces if piece not in ("{{", "}}")]
    if any(set("{}") & set(_FIELD.sub("", piece)) for piece in plain):
        hint = "Write {column} for a column and {{ or }} for a literal brace."
        raise BadFile([Fault("--template", f"unpaired brace in {template!r}", hint)])
    return [found.strip() for piece in plain for found in _FIELD.findall(piece)]


def fill(template: str, row: Mapping[str, str]) -> str:
    """The template with a row's values; {{ and }} are literal braces."""
    pieces = re.split(r"({{|}})", template)
    return "".join(
        {"{{": "{", "}}": "}"}.get(piece) or _FIELD.sub(lambda found: row[found[1].strip()], piece)
        for piece in pieces
    )


def check_columns(wanted: Iterable[str], columns: Sequence[str], label: str, *, by: str) -> None:
    """Raise BadFile unless the table has each column; `by` is the option that named them, "" for none."""
    faults = [
        Fault(label, f"no column {name!r}; columns: {_listed(columns)}", _column_hint(name, columns, by))
        for name in wanted
        if name not in columns
    ]
    if faults:
        raise BadFile(faults)


def _listed(columns: Sequence[str]) -> str:
    more = f" and {len(columns) - 20:,} more" if len(columns) > 20 else ""
    return ", ".join(columns[:20]) + more


def _column_hint(name: str, columns: Sequence[str], by: str) -> str:
    by_folded = {column.casefold(): column for column in columns}
    like = get_close_matches(name.casefold(), by_folded, 1)
    if not like and not by:
        like = [known for known in _LIKE if known in by_folded][:1]
    example = by_folded[like[0]] if like else ""
    if by == "--template":
        return (
            f'Did you mean --template "{{{example}}}"?' if like else 'Choose one with --template "{COLUMN}".'
        )
    option = f'--column "{example}" or --template "{{{example}}}"' if not by else f'--column "{example}"'
    if like:
        return f"Did you mean {option}?"
    return 'Choose one with --column NAME or --template "{NAME}"; the first row must hold the names of the columns.'
