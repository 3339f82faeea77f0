"""`penstock submit`: submits a file of prompts as one batch, with an estimate first."""

from __future__ import annotations

import re
import secrets
import shutil
import sys
import tempfile
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Any, Self
from urllib.parse import urlencode

import click
import orjson
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from app.cli.batch.commands import cost_of, finish, follow
from app.cli.batch.results import Job, Output, check_apart, files_of, out_options, output_of, save_job
from app.cli.failure import CommandFailure, Exit
from app.cli.remote import Remote, with_remote
from app.platform.domain.errors import Invalid
from app.submission.domain.file_kind import TEXT_KINDS, BadFile, Fault, Faults
from app.submission.read_file import Reading, Source
from app.submission.read_requests import Item, Request, RequestFile

_PIECE = 64 * 1024  # bytes of a body sent at once
_MOST_REQUESTS = 1_000_000  # of one batch
_MOST_HINTS = 3


# -- reading -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Prepared:
    """The requests of a submission as JSON lines in a temporary file, checked, with the place of each."""

    lines: IO[bytes]
    kind: str = ""
    size: int = 0
    count: int = 0
    names: set[int] = field(default_factory=set)  # hashes of custom ids
    _numbers: array[int] = field(default_factory=lambda: array("Q"))
    _starts: list[int] = field(default_factory=list)  # index of a file's first request
    _labels: list[tuple[str, str]] = field(
        default_factory=list
    )  # name and unit (row, line, item) of each file

    def add(self, item: Item, request: Request) -> None:
        """Append a request."""
        named = (item.label, item.where.split()[0])
        if not self._labels or self._labels[-1] != named:
            self._starts.append(self.count)
            self._labels.append(named)
        self._numbers.append(item.number)
        self.size += self.lines.write(orjson.dumps(request, option=orjson.OPT_APPEND_NEWLINE))
        self.count += 1

    def where(self, index: int) -> str:
        """The place of a request, such as "rows.csv, row 4"."""
        label, unit = self._labels[bisect_right(self._starts, index) - 1]
        return f"{label}, {unit} {self._numbers[index]}"

    def requests(self) -> Iterator[bytes]:
        """Its lines."""
        self.lines.seek(0)
        yield from self.lines


@dataclass(frozen=True, slots=True)
class Defaults:
    """What every request gets that does not say otherwise."""

    system: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)

    def applied(self, request: Request) -> Request:
        """The request with them."""
        if self.parameters:
            request = {**request, "parameters": {**self.parameters, **(request.get("parameters") or {})}}
        if self.tags:
            request = {**request, "metadata": {**self.tags, **(request.get("metadata") or {})}}
        return self._with_system(request) if self.system else request

    def _with_system(self, request: Request) -> Request:
        messages = request.get("messages") or [{"role": "user", "content": request.get("prompt")}]
        if not isinstance(messages, list) or (messages and _role(messages[0]) in ("system", "developer")):
            return request
        rest = {name: value for name, value in request.items() if name != "prompt"}
        return {**rest, "messages": [{"role": "system", "content": self.system}, *messages]}


def _role(message: Any) -> Any:
    return message.get("role") if isinstance(message, dict) else None


def prepare(sources: list[Source], how: Reading, defaults: Defaults, lines: IO[bytes], bar: Bar) -> Prepared:
    """Read the files once, check every request, and write them to `lines`. Raises CommandFailure with all faults."""
    prepared, faults = Prepared(lines), Faults()
    try:
        for source in sources:
            _read_one(prepared, source, how, defaults, faults, bar)
        faults.check()
    except BadFile as error:
        raise failure_of(error.faults) from None
    return prepared


def _read_one(
    prepared: Prepared, source: Source, how: Reading, defaults: Defaults, faults: Faults, bar: Bar
) -> None:
    begun = RequestFile(source, how, faults)
    prepared.kind = prepared.kind or begun.kind
    for item in begun:
        try:
            request = _checked(defaults.applied(item.request), prepared.names)
        except Invalid as error:
            faults.add(item.fault(error))
            continue
        if prepared.count >= _MOST_REQUESTS:
            words = f"holds more than {_MOST_REQUESTS:,} requests"
            raise BadFile([Fault(item.label, words, "Submit it in parts.")])
        prepared.add(item, request)
        bar.show(source.file.tell(), f"{prepared.count:,} requests")
    if begun.note:
        click.echo(begun.note, err=True)


def _checked(request: Request, names: set[int]) -> Request:
    from app.submission.bodies import BatchLine
    from app.submission.validation import parse

    name = parse(BatchLine, request).custom_id
    if name is None:
        return request
    if hash(name) in names:
        raise Invalid(f"custom_id: {name[:80]!r} is the id of an earlier request", code="duplicate_custom_id")
    names.add(hash(name))
    return {**request, "custom_id": name}


def failure_of(faults: list[Fault]) -> CommandFailure:
    """All faults as one failure, each with its place; a hint is given once."""
    hints = list(dict.fromkeys(fault.hint for fault in faults if fault.hint))
    hint = "\n  ".join(hints[:_MOST_HINTS]) or None
    if len(faults) == 1:
        return CommandFailure(str(faults[0]), hint)
    more = " or more" if len(faults) >= 100 else ""
    listed = "\n".join(f"  {fault}" for fault in faults)
    return CommandFailure(f"{len(faults)}{more} faults; nothing was submitted\n{listed}", hint)


@contextmanager
def opened(file: str) -> Iterator[list[Source]]:
    """The files to read; standard input is copied to a temporary file, because some formats are read by seeking."""
    with ExitStack() as stack:
        if file == "-":
            yield [Source(_kept(stack, sys.stdin.buffer), "standard input", "")]
            return
        path = Path(file)
        if not path.exists():
            raise CommandFailure(f"file not found: {file}", "Give a file, a folder, or - for standard input.")
        places = files_of(path)
        if not places:
            raise CommandFailure(f"{file}: the folder has no files in it", "Give another folder, or a file.")
        yield [_source(stack, place, path) for place in places]


def _kept(stack: ExitStack, pipe: IO[bytes]) -> IO[bytes]:
    made = tempfile.TemporaryFile(prefix="penstock-")  # noqa: SIM115 - the stack closes it
    kept: IO[bytes] = stack.enter_context(made)
    shutil.copyfileobj(pipe, kept)
    return kept


def _source(stack: ExitStack, place: Path, root: Path) -> Source:
    label = place.name if place == root else str(place.relative_to(root))
    try:
        file: IO[bytes] = stack.enter_context(place.open("rb"))
        if not file.seekable():  # a pipe, such as that of <(command)
            file = _kept(stack, file)
        return Source(file, label, place.name)
    except OSError as error:
        raise CommandFailure(f"{label}: cannot be read ({error.strerror or error})") from None


class Bar:
    """A progress bar on a terminal; elsewhere nothing, since each step prints a line when it is done."""

    def __init__(self, title: str, total: int) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[said]}"),
        )
        self._bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task(title, total=total or None, said="")
        self._calls = 0

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar.live.is_started:
            self._bar.stop()

    def show(self, done: int, said: str = "") -> None:
        """Show how much has been done."""
        self._calls += 1
        if self._calls % 200 == 0 and self._bar.live.is_started:
            self._bar.update(self._task, completed=done, said=said)


# -- the command ---------------------------------------------------------------------------------------------------


def _encoding(_context: click.Context, _parameter: click.Parameter, name: str | None) -> str:
    try:
        "".encode(name or "utf-8")
    except LookupError:
        raise click.BadParameter(f"unknown encoding {name!r}; try gb18030, cp1252 or utf-16") from None
    return name or ""


def _delimiter(_context: click.Context, _parameter: click.Parameter, given: str | None) -> str:
    character = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|"}.get(
        given or "", given or ""
    )
    if len(character) > 1 or character in ("\r", "\n", '"'):
        raise click.BadParameter("must be one character, such as ; or tab")
    return character


def _text_or_file(_context: click.Context, _parameter: click.Parameter, given: str | None) -> str:
    path = Path(given or "")
    try:
        if given and len(given) < 4096 and path.is_file():
            return path.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{given}: cannot be read as UTF-8 ({error})") from None
    return given or ""


def _pairs(_context: click.Context, _parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    pairs = dict(pair.partition("=")[::2] for pair in given)
    if not all(pairs) or not all("=" in pair for pair in given):
        raise click.BadParameter("write it as NAME=VALUE")
    return pairs


def _schema(_context: click.Context, _parameter: click.Parameter, path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        found = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise click.BadParameter(f"{path}: is no JSON file ({error})") from None
    if not isinstance(found, dict):
        raise click.BadParameter(f"{path}: must hold one JSON schema, an object")
    name = re.sub(r"[^\w-]", "_", path.stem, flags=re.ASCII)[:64] or "answer"
    whole = (
        found if isinstance(found.get("schema"), dict) else {"name": name, "schema": found, "strict": True}
    )
    return {"type": "json_schema", "json_schema": whole}


def _parameters(
    given: Mapping[str, str], temperature: float | None, max_tokens: int | None, schema: dict[str, Any] | None
) -> dict[str, Any]:
    named = {"temperature": temperature, "max_tokens": max_tokens, "response_format": schema}
    return {
        **{name: _value(text) for name, text in given.items()},
        **{name: value for name, value in named.items() if value is not None},
    }


def _value(text: str) -> Any:
    """A value as JSON where it is JSON: 0.2, true, ["a"]; else the text itself."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


_reading = (
    click.option(
        "--kind", type=click.Choice(TEXT_KINDS), help="Format of a text file [default: by its content]."
    ),
    click.option(
        "--encoding", callback=_encoding, help="Encoding, such as gb18030 or cp1252 [default: detected]."
    ),
    click.option(
        "--delimiter", callback=_delimiter, help='Tables: delimiter, such as ";" or tab [default: detected].'
    ),
    click.option("--sheet", default="", help="Workbooks: sheet by name or number [default: the only one]."),
    click.option(
        "--column", default="", help="Tables, JSON: the column or field with the prompts [default: prompt]."
    ),
    click.option(
        "--template", default="", help='Tables, JSON: the prompt, such as "Translate {text} into {language}".'
    ),
)
_asking = (
    click.option("--system", callback=_text_or_file, help="System message: a text, or a file that holds it."),
    click.option("--temperature", type=click.FloatRange(0), help="Sampling temperature."),
    click.option(
        "--max-tokens", type=click.IntRange(1), help="Longest answer in tokens; also lowers the estimate."
    ),
    click.option(
        "--json-schema",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        callback=_schema,
        help="Ask for JSON by the schema in this file.",
    ),
    click.option(
        "--param", multiple=True, callback=_pairs, help="Another parameter, NAME=VALUE; may be repeated."
    ),
    click.option(
        "--tag", multiple=True, callback=_pairs, help="Metadata of each request, NAME=VALUE; may be repeated."
    ),
)


def _with(options: tuple[Callable[[Any], Any], ...]) -> Callable[[Any], Any]:
    def add(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return add


@click.command("submit", short_help="submit a file of prompts as one batch")
@click.argument("file")
@click.option("--model", help="Model for requests that name none.")
@_with(_reading)
@_with(_asking)
@click.option(
    "--sample", type=click.IntRange(1), help="First run this many requests now to measure the cost."
)
@click.option(
    "--max-cost",
    type=click.FloatRange(0),
    help="Do not submit if the cost would exceed this (in the model's currency).",
)
@click.option("--batch-size", type=click.IntRange(1), help="Maximum concurrent requests of this batch.")
@click.option(
    "--priority", type=click.Choice(["high", "normal", "low"]), help="Priority among your own tasks."
)
@click.option(
    "--expires-in", default="24h", show_default=True, help="Requests that have not started by then expire."
)
@click.option("--run-at", help="Do not start before this time, such as 2026-11-21T18:00:00Z.")
@click.option("--window", type=click.Choice(["off_peak"]), help="Only in the upstream's off-peak hours.")
@click.option("--order", type=click.Choice(["arrival", "deadline"]), help="Its order among your own tasks.")
@click.option("--callback-url", help="Receives one callback when the batch has ended.")
@click.option("--watch", "watching", is_flag=True, help="Watch it until it ends; --out implies it.")
@out_options
@click.option("--dry-run", is_flag=True, help="Only print the estimate.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@with_remote
def command(
    remote: Remote,
    /,
    file: str,
    kind: str | None,
    encoding: str,
    delimiter: str,
    sheet: str,
    column: str,
    template: str,
    system: str,
    temperature: float | None,
    max_tokens: int | None,
    json_schema: dict[str, Any] | None,
    param: dict[str, str],
    tag: dict[str, str],
    sample: int | None,
    max_cost: float | None,
    watching: bool,
    out: Path | None,
    excel: bool,
    raw_cells: bool,
    dry_run: bool,
    yes: bool,
    **options: str | int | None,
) -> None:
    """Submit FILE as one batch: JSON in any spacing (Penstock's format, OpenAI's, or texts), CSV, TSV, Excel, Parquet
    or one prompt per line, also compressed; a folder of such files; or `-` for standard input.

    \b
    penstock submit prompts.txt --model deepseek-flash --watch
    penstock submit rows.csv --template "Summarise: {text}" --out results.csv
    penstock submit reviews.xlsx --column review --system "Answer positive or negative." --max-tokens 5
    penstock submit batch.jsonl --sample 20 --max-cost 5
    penstock submit tonight.txt --window off_peak --expires-in 20h
    """
    if column and template:
        raise click.UsageError("give one of --column and --template")
    output = output_of(out, excel, raw_cells)
    check_apart(output, file.removeprefix("-"))
    how = Reading(kind or "", encoding, delimiter, sheet, column, template)
    defaults = Defaults(system, _parameters(param, temperature, max_tokens, json_schema), tag)
    with opened(file) as sources, tempfile.TemporaryFile(prefix="penstock-") as lines:
        prepared = _prepared(sources, how, defaults, lines)
        estimate = estimate_of(remote, prepared, options)
        click.echo(estimate_text(estimate, datetime.now().astimezone()), err=True)
        if dry_run:
            return
        if sample is not None:
            cost = run_sample(remote, prepared, options, sample)
            estimate = {**estimate, "cost": cost}
        check_cost(estimate, max_cost)
        if sample is not None and not yes and sys.stdin.isatty():
            click.confirm("Submit all requests?", abort=True, err=True)
        batch = send(remote, prepared, options)
        remember(
            batch["id"], prepared.kind if len(sources) == 1 else how.kind, how, file, output, sources[0].file
        )
    click.echo(batch["id"])
    if watching or output is not None:
        finish(remote, follow(remote, batch["id"], max_cost), output)
    click.echo(f"Watch it with: penstock watch {batch['id']}", err=True)


def _prepared(sources: list[Source], how: Reading, defaults: Defaults, lines: IO[bytes]) -> Prepared:
    size = sum(source.file.seek(0, 2) for source in sources)
    with Bar("Reading", size if len(sources) == 1 else 0) as bar:
        prepared = prepare(sources, how, defaults, lines, bar)
    files = f"{len(sources):,} files" if len(sources) > 1 else sources[0].label
    click.echo(f"Read {counted(prepared.count, 'request')} from {files}.", err=True)
    return prepared


def estimate_of(remote: Remote, prepared: Prepared, options: Mapping[str, Any]) -> dict[str, Any]:
    """Ask the service for an estimate. Raises CommandFailure if a request would be refused."""
    return _sent(remote, prepared, {**options, "dry_run": "true"}, "Estimating")


def estimate_text(estimate: Mapping[str, Any], now: datetime) -> str:
    """An estimate in words: what is likely, with the most that it can come to; `now` has the zone to show."""
    tokens, cost, seconds = estimate["tokens"], estimate.get("cost"), estimate.get("seconds")
    likely, likely_cost = estimate.get("likely_tokens"), estimate.get("likely_cost")
    words = [counted(estimate["requests"], "request")]
    if likely is None:
        words.append(f"about {_rounded(tokens):,} tokens")
    else:
        words.append(f"about {_rounded(likely):,} tokens (at most {_rounded(max(tokens, likely)):,})")
    if not cost:
        words.append("cost not known (no price is configured)")
    elif likely_cost and likely_cost["currency"] == cost["currency"]:
        words.append(f"about {_money(likely_cost)} (at most {_money(max(cost, likely_cost, key=_micros))})")
    else:
        words.append(f"up to {_money(cost)}")
    if seconds is None:
        words.append("duration not known yet")
    else:
        about = "about" if estimate.get("at_pace") else "at least"
        words.append(f"{about} {_span(seconds)}")
        if estimate.get("at_pace") and seconds >= 60:
            words.append(f"done by {_clock_time(now, seconds)}")
    return ", ".join(words)


def _micros(cost: Mapping[str, Any]) -> float:
    return float(cost["micros"])


def _clock_time(now: datetime, seconds: float) -> str:
    """The local time, with the day unless that is today."""
    end = now + timedelta(seconds=seconds)
    return f"{end:%H:%M}" if end.date() == now.date() else f"{end:%Y-%m-%d %H:%M}"


def counted(count: int, noun: str) -> str:
    """Such as "1 request" or "1,000 requests"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _rounded(count: int) -> int:
    """To three digits: it is an estimate."""
    return round(count, 3 - len(str(count))) if count >= 1000 else count


def _money(cost: Mapping[str, Any]) -> str:
    whole = cost["micros"] / 1e6
    figure = f"{whole:,.2f}" if whole >= 0.1 or not whole else f"{whole:.4f}"
    return f"${figure}" if cost["currency"] == "USD" else f"{figure} {cost['currency']}"


def _span(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes > 1 else f"{seconds:,.0f} s"


def at_once(wishes: Mapping[str, Any]) -> dict[str, Any]:
    """What the sample asks for instead: it runs now, before one's own backlog, because somebody is waiting for it."""
    kept = {
        name: value for name, value in wishes.items() if name not in ("run_at", "window", "priority", "order")
    }
    if isinstance(kept.get("penstock"), dict):
        kept["penstock"] = at_once(kept["penstock"])
    return kept


_SAMPLE_FIRST = {"priority": "high", "order": "deadline"}


def run_sample(
    remote: Remote, prepared: Prepared, options: Mapping[str, Any], count: int
) -> dict[str, Any] | None:
    """Run an evenly spaced sample now. Returns the extrapolated cost of all requests; None if unknown."""
    total = prepared.count
    step = max(1, total // count)
    chosen = (
        orjson.dumps(at_once(orjson.loads(line)), option=orjson.OPT_APPEND_NEWLINE)
        for number, line in enumerate(prepared.requests())
        if number % step == 0 and number // step < count
    )
    made = remote.send_lines(_path({**at_once(options), **_SAMPLE_FIRST}), _body(chosen), key=_key())
    batch = follow(remote, made["id"])
    counts, cost = batch["request_counts"], batch.get("cost")
    click.echo(f"Sample: {counts['completed']:,} of {counts['total']:,} requests succeeded.", err=True)
    if not counts["completed"]:
        raise CommandFailure("no request in the sample succeeded", f"See: penstock results {batch['id']}")
    if not cost:
        return None
    whole = cost_of(batch) * total / counts["total"]
    click.echo(f"All {total:,} requests would cost about {whole:,.4f} {cost['currency']}.", err=True)
    return {"micros": round(whole * 1e6), "currency": cost["currency"]}


def check_cost(estimate: Mapping[str, Any], max_cost: float | None) -> None:
    """Check the estimate against --max-cost. Raises CommandFailure if it is higher or unknown."""
    if max_cost is None:
        return
    cost = estimate.get("cost")
    if not cost:
        raise CommandFailure("the cost is not known", "Omit --max-cost, or add a [[price]] for the model.")
    if cost["micros"] > max_cost * 1e6:
        raise CommandFailure(
            f"the cost of up to {_money(cost)} exceeds --max-cost {max_cost:g}", "Nothing was submitted."
        )


def send(remote: Remote, prepared: Prepared, options: Mapping[str, Any]) -> dict[str, Any]:
    """Submit the requests as one batch."""
    return _sent(remote, prepared, options, "Sending", key=_key())


def _key() -> str:
    return f"cli-{secrets.token_hex(12)}"


_REFUSED = re.compile(r"(?:line (\d+): )?(?:requests\[(\d+)\])?[.:]? ?(.*)", re.DOTALL)


def _sent(
    remote: Remote, prepared: Prepared, options: Mapping[str, Any], title: str, key: str | None = None
) -> dict[str, Any]:
    """Send all lines; what the service refuses is named by its place in the file. Raises CommandFailure."""
    with Bar(title, prepared.size) as bar:
        try:
            return dict(remote.send_lines(_path(options), _body(prepared.requests(), bar), key=key))
        except CommandFailure as error:
            found = _REFUSED.fullmatch(error.message)
            if found is None or not (found[1] or found[2]):
                raise
            index = int(found[1]) - 1 if found[1] else int(found[2])
            if index >= prepared.count:
                raise
            words = re.sub(r" \(requests\[\d+\][^()]*\)$", "", found[3])
            raise CommandFailure(
                f"{prepared.where(index)}: {words}", error.hint, Exit(error.exit_code)
            ) from None


def remember(
    batch_id: str, kind: str, how: Reading, file: str, out: Output | None, content: IO[bytes]
) -> None:
    """Remember the source and the output file for `penstock watch` and `results`."""
    source = "" if file == "-" else str(Path(file).absolute())
    to = str(out.path.absolute()) if out else ""
    job = Job(source, kind, to, how.encoding, how.delimiter, how.sheet, how.column, how.template)
    save_job(batch_id, job, content if file == "-" else None)


def _path(options: Mapping[str, Any]) -> str:
    given = {name: value for name, value in options.items() if value is not None}
    return f"/v1/batch?{urlencode(given)}"


def _body(lines: Iterator[bytes], bar: Bar | None = None) -> Iterator[bytes]:
    """The lines in larger pieces."""
    held, sent = bytearray(), 0
    for line in lines:
        held += line
        if len(held) >= _PIECE:
            yield bytes(held)
            sent += len(held)
            held.clear()
        if bar is not None:
            bar.show(sent)
    if held:
        yield bytes(held)
