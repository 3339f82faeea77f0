"""`penstock submit`: submits a file of prompts as one batch, with an estimate first."""

from __future__ import annotations

import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import click
import orjson

from app.cli.batch.commands import Job, cost_of, finish, follow, save_job
from app.cli.batch.prompts import KINDS, PromptFile, Request, kind_of, requests_of
from app.cli.failure import CommandFailure
from app.cli.remote import Remote, with_remote

_PIECE = 64 * 1024  # bytes of a body sent at once


def _encoding(_context: click.Context, _parameter: click.Parameter, name: str | None) -> str:
    try:
        "".encode(name or "utf-8")
    except LookupError:
        raise click.BadParameter(f"unknown encoding {name!r}; try gb18030, cp1252 or utf-16") from None
    return name or ""


def _delimiter(_context: click.Context, _parameter: click.Parameter, given: str | None) -> str:
    character = {"tab": "\t", "\\t": "\t"}.get(given or "", given or "")
    if len(character) > 1 or character in ("\r", "\n", '"'):
        raise click.BadParameter("must be one character, such as ; or tab")
    return character


@click.command("submit", short_help="submit a file of prompts as one batch")
@click.argument("file")
@click.option("--model", help="Model for requests that name none.")
@click.option("--kind", type=click.Choice(KINDS), help="File format [default: by name or content].")
@click.option(
    "--encoding",
    callback=_encoding,
    help="File encoding, such as gb18030 [default: UTF-8, or by byte order mark].",
)
@click.option(
    "--delimiter",
    callback=_delimiter,
    help='For CSV: the delimiter, such as ";" or tab [default: by the header].',
)
@click.option(
    "--template",
    default="",
    help='For CSV and TSV: the prompt, such as "Translate {text}" [default: {prompt}].',
)
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
    "--expires-in", default="24h", show_default=True, help="Requests that have not started by then expire."
)
@click.option("--run-at", help="Do not start before this time, such as 2026-11-21T18:00:00Z.")
@click.option("--window", type=click.Choice(["off_peak"]), help="Only in the upstream's off-peak hours.")
@click.option("--order", type=click.Choice(["arrival", "deadline"]), help="Its order among your own tasks.")
@click.option("--watch", "watching", is_flag=True, help="Watch it until it ends.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the results here (.jsonl or .csv); implies --watch.",
)
@click.option("--dry-run", is_flag=True, help="Only print the estimate.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@with_remote
def command(
    remote: Remote,
    file: str,
    model: str | None,
    kind: str | None,
    encoding: str,
    delimiter: str,
    template: str,
    sample: int | None,
    max_cost: float | None,
    batch_size: int | None,
    expires_in: str,
    run_at: str | None,
    window: str | None,
    order: str | None,
    watching: bool,
    out: Path | None,
    dry_run: bool,
    yes: bool,
) -> None:
    """Submit FILE as one batch: JSON lines or a JSON array (Penstock's format, OpenAI's, or strings), CSV, TSV or one
    prompt per line, optionally gzipped; `-` reads standard input.

    \b
    penstock submit prompts.txt --model deepseek-flash --watch
    penstock submit rows.csv --template "Summarise: {text}" --out results.csv
    penstock submit batch.jsonl --sample 20 --max-cost 5
    penstock submit tonight.txt --window off_peak --expires-in 20h
    """
    options = {
        "model": model,
        "batch_size": batch_size,
        "expires_in": expires_in,
        "run_at": run_at,
        "window": window,
        "order": order,
    }
    with _source(file, kind, PromptFile(Path(file), "", template, encoding, delimiter)) as source:
        estimate = estimate_of(remote, source, options)
        click.echo(estimate_text(estimate), err=True)
        if dry_run:
            return
        if sample is not None:
            cost = run_sample(remote, source, options, sample, int(estimate["requests"]))
            estimate = {**estimate, "cost": cost}
        check_cost(estimate, max_cost)
        if sample is not None and not yes and sys.stdin.isatty():
            click.confirm("Submit all requests?", abort=True, err=True)
        batch = send(remote, requests_of(source), options)
    click.echo(batch["id"])
    remember(batch["id"], source, file, out)
    if watching or out is not None:
        finish(remote, follow(remote, batch["id"], max_cost), out)
    click.echo(f"Watch it with: penstock watch {batch['id']}", err=True)


def estimate_of(remote: Remote, source: PromptFile, options: Mapping[str, Any]) -> dict[str, Any]:
    """Ask the service for an estimate. Raises CommandFailure if a request would be refused."""
    path = _path({**options, "dry_run": "true"})
    return dict(remote.send_lines(path, _body(requests_of(source))))


def estimate_text(estimate: Mapping[str, Any]) -> str:
    """Return an estimate as text."""
    cost, seconds = estimate.get("cost"), estimate.get("seconds")
    words = [f"{estimate['requests']:,} requests", f"about {_rounded(estimate['tokens']):,} tokens"]
    words.append(f"up to {_money(cost)}" if cost else "cost not known (no price is configured)")
    words.append(f"at least {_span(seconds)}" if seconds is not None else "duration not known yet")
    return ", ".join(words)


def _rounded(count: int) -> int:
    """To three digits: it is an estimate."""
    return round(count, 3 - len(str(count))) if count >= 1000 else count


def _money(cost: Mapping[str, Any]) -> str:
    whole = cost["micros"] / 1e6
    return f"{whole:,.2f} {cost['currency']}" if whole >= 0.1 else f"{whole:.4f} {cost['currency']}"


def _span(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes > 1 else f"{seconds:,.0f} s"


def at_once(wishes: Mapping[str, Any]) -> dict[str, Any]:
    """Drop run_at and window: the sample runs now because somebody is waiting for it."""
    return {name: value for name, value in wishes.items() if name not in ("run_at", "window")}


def run_sample(
    remote: Remote, source: PromptFile, options: Mapping[str, Any], count: int, total: int
) -> dict[str, Any] | None:
    """Run an evenly spaced sample now. Returns the extrapolated cost of all requests; None if unknown."""
    step = max(1, total // count)
    chosen = (
        at_once(one)
        for number, one in enumerate(requests_of(source))
        if number % step == 0 and number // step < count
    )
    batch = follow(remote, send(remote, chosen, at_once(options))["id"])
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


def send(remote: Remote, requests: Iterable[Request], options: Mapping[str, Any]) -> dict[str, Any]:
    """Submit requests as one batch."""
    return dict(remote.send_lines(_path(options), _body(requests), key=f"cli-{secrets.token_hex(12)}"))


def remember(batch_id: str, source: PromptFile, file: str, out: Path | None) -> None:
    """Remember the source's columns and the output file for `penstock watch` and `results`."""
    place = "" if file == "-" else str(source.path.absolute())
    to = str(out.absolute()) if out else ""
    save_job(batch_id, Job(place, source.kind, to, source.encoding, source.delimiter))


@contextmanager
def _source(file: str, kind: str | None, source: PromptFile) -> Iterator[PromptFile]:
    """The file to read; standard input is copied to a temporary file because it is read more than once."""
    if file != "-":
        if not source.path.is_file():
            raise CommandFailure(f"file not found: {file}")
        yield replace(source, kind=kind_of(source.text, kind))
        return
    with tempfile.NamedTemporaryFile(prefix="penstock-") as kept:
        shutil.copyfileobj(sys.stdin.buffer, kept)
        kept.flush()
        source = replace(source, path=Path(kept.name), label="standard input")
        yield replace(source, kind=kind_of(source.text, kind))


def _path(options: Mapping[str, Any]) -> str:
    given = {name: value for name, value in options.items() if value is not None}
    return f"/v1/batch?{urlencode(given)}"


def _body(requests: Iterable[Request]) -> Iterator[bytes]:
    """Yield JSON lines in chunks."""
    held = bytearray()
    for request in requests:
        held += orjson.dumps(request, option=orjson.OPT_APPEND_NEWLINE)
        if len(held) >= _PIECE:
            yield bytes(held)
            held.clear()
    if held:
        yield bytes(held)
