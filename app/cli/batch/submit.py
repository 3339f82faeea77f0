"""`penstock submit`: a file of prompts as one batch; what it would come to is told first."""

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
        raise click.BadParameter(
            f"there is no encoding {name!r}; known are gb18030, cp1252, utf-16 ..."
        ) from None
    return name or ""


def _delimiter(_context: click.Context, _parameter: click.Parameter, given: str | None) -> str:
    character = {"tab": "\t", "\\t": "\t"}.get(given or "", given or "")
    if len(character) > 1 or character in ("\r", "\n", '"'):
        raise click.BadParameter("one character, such as ; or tab")
    return character


@click.command("submit", short_help="submit a file of prompts as one batch")
@click.argument("file")
@click.option("--model", help="The model of requests that name none.")
@click.option(
    "--kind", type=click.Choice(KINDS), help="How to read it [default: by its name, or its beginning]."
)
@click.option(
    "--encoding", callback=_encoding, help="Its encoding, such as gb18030 [default: UTF-8, or as it says]."
)
@click.option(
    "--delimiter",
    callback=_delimiter,
    help='For CSV: what parts its cells, such as ";" or tab [default: by its head].',
)
@click.option(
    "--template",
    default="",
    help='For CSV and TSV: the prompt, such as "Translate {text}" [default: {prompt}].',
)
@click.option(
    "--sample", type=click.IntRange(1), help="Run so many of them first and now, to see what they cost."
)
@click.option("--max-cost", type=click.FloatRange(0), help="Submit only what costs no more, in its currency.")
@click.option("--batch-size", type=click.IntRange(1), help="How many may be in flight at once.")
@click.option("--expires-in", default="24h", show_default=True, help="No request of it outlives this.")
@click.option("--run-at", help="Not before this instant, such as 2026-11-21T18:00:00Z.")
@click.option("--window", type=click.Choice(["off_peak"]), help="Only in the upstream's off-peak hours.")
@click.option("--order", type=click.Choice(["arrival", "deadline"]), help="How it stands in your own line.")
@click.option("--watch", "watching", is_flag=True, help="Watch it to its end.")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="Results, .jsonl or .csv; watches."
)
@click.option("--dry-run", is_flag=True, help="Only tell what it would come to.")
@click.option("--yes", is_flag=True, help="Ask nothing.")
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
    """Submit FILE as one batch: JSON lines or an array (ours, OpenAI's, or texts), CSV, TSV, plain lines, also packed
    by gzip; `-` reads standard input.

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
        click.echo(told(estimate), err=True)
        if dry_run:
            return
        if sample is not None:
            cost = run_sample(remote, source, options, sample, int(estimate["requests"]))
            estimate = {**estimate, "cost": cost}
        check_cost(estimate, max_cost)
        if sample is not None and not yes and sys.stdin.isatty():
            click.confirm("Submit all of it?", abort=True, err=True)
        batch = send(remote, requests_of(source), options)
    click.echo(batch["id"])
    remember(batch["id"], source, file, out)
    if watching or out is not None:
        finish(remote, follow(remote, batch["id"], max_cost), out)
    click.echo(f"Watch it: penstock watch {batch['id']}", err=True)


def estimate_of(remote: Remote, source: PromptFile, options: Mapping[str, Any]) -> dict[str, Any]:
    """What it would come to. Raises Failure for a request that would be refused."""
    path = _path({**options, "dry_run": "true"})
    return dict(remote.send_lines(path, _body(requests_of(source))))


def told(estimate: Mapping[str, Any]) -> str:
    """An estimate in words."""
    cost, seconds = estimate.get("cost"), estimate.get("seconds")
    words = [f"{estimate['requests']} requests", f"about {estimate['tokens']} tokens"]
    words.append(f"at most {cost['micros'] / 1e6:.4f} {cost['currency']}" if cost else "cost unknown")
    words.append(f"{seconds:.0f} s or more" if seconds is not None else "time unknown")
    return ", ".join(words)


def at_once(wishes: Mapping[str, Any]) -> dict[str, Any]:
    """Without a time to wait for: the sample runs now, whenever the rest is to run, as somebody waits for it."""
    return {name: value for name, value in wishes.items() if name not in ("run_at", "window")}


def run_sample(
    remote: Remote, source: PromptFile, options: Mapping[str, Any], count: int, total: int
) -> dict[str, Any] | None:
    """Run some requests now, evenly chosen; gives back what all would cost at their price, None when unknown."""
    step = max(1, total // count)
    chosen = (
        at_once(one)
        for number, one in enumerate(requests_of(source))
        if number % step == 0 and number // step < count
    )
    batch = follow(remote, send(remote, chosen, at_once(options))["id"])
    counts, cost = batch["request_counts"], batch.get("cost")
    click.echo(f"The sample: {counts['completed']} of {counts['total']} succeeded.", err=True)
    if not counts["completed"]:
        raise CommandFailure("no request of the sample succeeded", f"See: penstock results {batch['id']}")
    if not cost:
        return None
    whole = cost_of(batch) * total / counts["total"]
    click.echo(f"All of it would cost about {whole:.4f} {cost['currency']}.", err=True)
    return {"micros": round(whole * 1e6), "currency": cost["currency"]}


def check_cost(estimate: Mapping[str, Any], max_cost: float | None) -> None:
    """Refuse what would cost more, or nobody knows how much. Raises Failure."""
    if max_cost is None:
        return
    cost = estimate.get("cost")
    if not cost:
        raise CommandFailure(
            "nobody knows what it would cost", "Leave --max-cost out, or give the model a [[price]]."
        )
    if cost["micros"] > max_cost * 1e6:
        amount = f"{cost['micros'] / 1e6:.4f} {cost['currency']}"
        raise CommandFailure(
            f"it would cost {amount}, more than --max-cost {max_cost:g}", "Nothing was submitted."
        )


def send(remote: Remote, requests: Iterable[Request], options: Mapping[str, Any]) -> dict[str, Any]:
    """Submit requests as one batch."""
    return dict(remote.send_lines(_path(options), _body(requests), key=f"cli-{secrets.token_hex(12)}"))


def remember(batch_id: str, source: PromptFile, file: str, out: Path | None) -> None:
    """So that `penstock watch` and `results` know the columns, and where the results were to go."""
    place = "" if file == "-" else str(source.path.absolute())
    to = str(out.absolute()) if out else ""
    save_job(batch_id, Job(place, source.kind, to, source.encoding, source.delimiter))


@contextmanager
def _source(file: str, kind: str | None, source: PromptFile) -> Iterator[PromptFile]:
    """The file to read; standard input is kept in a file of our own meanwhile, since it is read more than once."""
    if file != "-":
        if not source.path.is_file():
            raise CommandFailure(f"there is no file {file}")
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
    """JSON lines, some together."""
    held = bytearray()
    for request in requests:
        held += orjson.dumps(request, option=orjson.OPT_APPEND_NEWLINE)
        if len(held) >= _PIECE:
            yield bytes(held)
            held.clear()
    if held:
        yield bytes(held)
