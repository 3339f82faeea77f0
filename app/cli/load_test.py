"""`penstock load-test`: rising steps of real requests against one's own service."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import orjson
import urllib3

from app.cli.failure import CommandFailure, Exit
from app.cli.profile import folder as data_folder
from app.cli.profile import on_database
from app.cli.remote import Remote, find
from app.cli.tables import new_table, print_tables
from app.diagnosis.domain.finding import Level
from app.diagnosis.domain.load_steps import LoadAnswer, LoadStep, Thresholds, held, judge_step, verdict
from app.platform.domain.money import amount
from app.platform.domain.times import parse_duration

_EVERY = {"hour": 3600.0, "day": 86_400.0, "week": 7 * 86_400.0}
_PROMPT = "Load test {number}: answer with the word ok."
_GUESSED_TOKENS = 20  # of the prompt above, rounded up

Ask = Callable[[int], LoadAnswer]


@click.command("load-test", short_help="load one's own service in rising steps: pass or fail")
@click.option(
    "--users", default="1,2,5,10,20", show_default=True, help="Steps: users at once, separated by commas."
)
@click.option("--seconds", type=float, default=15.0, show_default=True, help="Length of a step.")
@click.option("--model", help="Model [default: the configured default_model].")
@click.option("--prompt", default=_PROMPT, show_default=True, help="{number} differs in each request.")
@click.option("--max-tokens", type=click.IntRange(1), default=16, show_default=True, help="Longest answer.")
@click.option("--most", type=click.IntRange(1), default=2000, show_default=True, help="Most requests in all.")
@click.option(
    "--timeout", type=float, default=60.0, show_default=True, help="Seconds until a request failed."
)
@click.option("--p50", type=float, help="Threshold in seconds.")
@click.option("--p90", type=float, help="Threshold in seconds.")
@click.option("--p99", type=float, default=10.0, show_default=True, help="Threshold in seconds.")
@click.option("--errors", type=float, default=1.0, show_default=True, help="Threshold in percent.")
@click.option("--yes", is_flag=True, help="Send even if it costs money, or may cost some.")
@click.option("--every", metavar="hour|day|week|30m", help="Repeat until Ctrl-C.")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="Append each result, one JSON a line."
)
@click.option(
    "--config", type=click.Path(path_type=Path), help="Configuration [default: the running service's]."
)
@click.option("--url", help="Address of the service [default: PENSTOCK_URL, the profile].")
@click.option("--key", help="API key [default: PENSTOCK_API_KEY, the profile].")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@on_database
@click.pass_context
def command(ctx: click.Context, /, **asked: Any) -> None:
    """Send chat requests from more and more users at once, until a step breaks a threshold.

    Measures the whole way: API, queue, limits, worker, upstream. Refuses a model that costs money, or whose price is
    unknown, unless --yes: use `penstock up --simulate`, or a model of your own with [[price]] 0. Exit code 1: a
    threshold was not kept.

    \b
    penstock load-test
    penstock load-test --users 10,50,100 --p99 2 --errors 0.5 --json
    penstock load-test --every week --out load.jsonl
    """
    pause = _every(asked["every"])
    while True:
        report = run(asked)
        _write(asked["out"], report)
        if asked["as_json"]:
            click.echo(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode())
        else:
            click.echo(report["verdict"])
        if pause is None:
            ctx.exit(report["exit_code"])
        time.sleep(pause)


def run(asked: dict[str, Any]) -> dict[str, Any]:
    """All steps once. Raises CommandFailure."""
    users = _users(asked["users"])
    remote = find(asked["url"], asked["key"], os.environ, data_folder())
    model, cost = _model_and_cost(asked, remote.url)
    limits = Thresholds(asked["p50"], asked["p90"], asked["p99"], asked["errors"] / 100)
    ask = _Sender(remote, model, asked["prompt"], asked["max_tokens"], asked["timeout"]).ask
    steps = []
    table = new_table("users", "requests", "per second", "P50", "P90", "P99", "errors", "")
    for step in play(users, asked["seconds"], asked["most"], ask, limits):
        steps.append(step)
        table.add_row(*_row(step))
        click.echo(f"{step.users:,} users: {step.requests:,} requests", err=True)
    if not asked["as_json"]:
        print_tables(table)
    return _report(remote.url, model, cost, steps, limits)


def play(users: Sequence[int], seconds: float, most: int, ask: Ask, limits: Thresholds) -> Iterator[LoadStep]:
    """Play one step after the other, until one breaks a threshold or `most` requests are sent."""
    left = _Budget(most)
    for count in users:
        began = time.monotonic()
        until = began + seconds
        with ThreadPoolExecutor(count) as pool:
            users_answers = [pool.submit(_user, ask, left, until) for _ in range(count)]
            answers = [answer for each in users_answers for answer in each.result()]
        if not answers:
            return
        step = judge_step(count, time.monotonic() - began, answers, limits)
        yield step
        if step.broken:
            return


class _Budget:
    """Numbers of requests, each given out once, to the threads of all users."""

    def __init__(self, most: int) -> None:
        self._numbers = iter(range(1, most + 1))
        self._lock = threading.Lock()

    def take(self) -> int | None:
        """The next number; None when all are gone."""
        with self._lock:
            return next(self._numbers, None)


def _user(ask: Ask, left: _Budget, until: float) -> list[LoadAnswer]:
    answers: list[LoadAnswer] = []
    while time.monotonic() < until and (number := left.take()) is not None:
        answers.append(ask(number))
    return answers


@dataclass(frozen=True, slots=True)
class _Sender:
    remote: Remote
    model: str
    prompt: str
    max_tokens: int
    timeout: float

    def ask(self, number: int) -> LoadAnswer:
        """One chat request, different from all others: neither cached nor joined."""
        text = self.prompt.replace("{number}", f"{number} {time.time_ns()}")
        body = {
            "model": self.model,
            "max_tokens": self.max_tokens,
            "messages": [{"role": "user", "content": text}],
        }
        headers = {"Authorization": f"Bearer {self.remote.api_key}", "Content-Type": "application/json"}
        began = time.monotonic()
        try:
            answer = _pool().request(
                "POST",
                f"{self.remote.url}/v1/chat/completions",
                body=orjson.dumps(body),
                headers=headers,
                timeout=self.timeout,
            )
            error = "" if answer.status < 400 else str(answer.status)
        except urllib3.exceptions.TimeoutError:
            error = "timeout"
        except urllib3.exceptions.HTTPError as failure:
            error = type(failure).__name__
        return LoadAnswer(time.monotonic() - began, error)


_LOCAL = threading.local()


def _pool() -> urllib3.PoolManager:
    """A pool for each user: each keeps its connection, as a client does."""
    if not hasattr(_LOCAL, "pool"):
        _LOCAL.pool = urllib3.PoolManager(retries=False)
    pool: urllib3.PoolManager = _LOCAL.pool
    return pool


# -- what it may cost


def _model_and_cost(asked: dict[str, Any], url: str) -> tuple[str, str]:
    """The model, and the most that all requests can cost, in words. Raises CommandFailure where that is not 0."""
    from app.cli.doctor.command import find as read_configuration

    found = read_configuration(asked["config"], data_folder(), os.environ)
    settings, profile = found.settings, found.profile
    wrong = next((one for one in found.findings if one.name == "file" and one.level is Level.FAIL), None)
    if wrong is not None:
        raise CommandFailure(wrong.message, wrong.hint, Exit.CONFIGURATION)
    model = asked["model"] or settings.default_model
    if not model:
        raise CommandFailure("no model", "Add --model NAME, or set default_model.", Exit.USAGE)
    simulated = bool(profile.simulator_url) and profile.url.rstrip("/") == url
    cost = "0, simulated" if simulated else _most_cost(settings, model, asked)
    if not cost.startswith("0") and not asked["yes"]:
        raise CommandFailure(
            f"{asked['most']:,} requests of {model} may cost {cost}",
            "Add --yes to spend it, lower --most or --max-tokens, run `penstock up --simulate`, or give your own model "
            "a [[price]] of 0.",
        )
    return model, cost


def _most_cost(settings: Any, model: str, asked: dict[str, Any]) -> str:
    from app.settings import price_book
    from app.settings.topology import build_topology
    from app.tasks.domain.attempt import TokenUsage

    prices, now = price_book(settings), time.time()
    prompt = max(_GUESSED_TOKENS, len(asked["prompt"]) // 2)
    usage = TokenUsage(prompt * asked["most"], asked["max_tokens"] * asked["most"])
    routes = [route for tier in build_topology(settings).models.get(model, ()) for route in tier]
    costs = [prices.cost(route.upstream, route.upstream_model, usage, now) for route in routes]
    known = [cost for cost in costs if cost is not None]
    if not routes or len(known) < len(costs):
        return "an unknown amount: it has no price"
    dearest = max(known, key=lambda cost: cost.picos)
    return "0, by its price" if not dearest.picos else f"up to {amount(dearest.picos)} {dearest.currency}"


# -- the result


def _report(url: str, model: str, cost: str, steps: Sequence[LoadStep], limits: Thresholds) -> dict[str, Any]:
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "url": url,
        "model": model,
        "cost_at_most": cost,
        "thresholds": asdict(limits),
        "steps": [
            {
                "users": step.users,
                "seconds": round(step.seconds, 3),
                "requests": step.requests,
                "per_second": round(step.a_second, 3),
                **{f"{name}_seconds": round(value, 4) for name, value in step.times._asdict().items()},
                "errors": dict(step.errors),
                "error_share": round(step.error_share, 5),
                "passed": not step.broken,
                "broken": list(step.broken),
            }
            for step in steps
        ],
        "held_users": held(steps),
        "verdict": verdict(steps),
        "exit_code": int(Exit.FAILED if not steps or any(step.broken for step in steps) else Exit.OK),
    }


def _row(step: LoadStep) -> tuple[str, ...]:
    times = [f"{value:.2f} s" for value in step.times]
    kinds = ", ".join(f"{count:,} x {kind}" for kind, count in sorted(step.errors.items()))
    shown = f"{step.error_share:.1%}" + (f" ({kinds})" if kinds else "")
    passed = "; ".join(step.broken) or "passed"
    return (f"{step.users:,}", f"{step.requests:,}", f"{step.a_second:.1f}", *times, shown, passed)


def _write(out: Path | None, report: dict[str, Any]) -> None:
    if out is None:
        return
    try:
        with out.open("ab") as file:
            file.write(orjson.dumps(report, option=orjson.OPT_APPEND_NEWLINE))
    except OSError as error:
        raise CommandFailure(
            f"cannot write {out}: {error.strerror}", "Name another file with --out."
        ) from None


def _users(text: str) -> list[int]:
    try:
        users = [int(part) for part in text.split(",")]
    except ValueError:
        users = []
    if not users or min(users) < 1 or max(users) > 2000 or users != sorted(set(users)):
        raise CommandFailure(
            f"--users {text}: not rising numbers from 1 to 2,000", "Write --users 1,5,20.", Exit.USAGE
        )
    return users


def _every(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        seconds = _EVERY.get(text) or parse_duration(text)
    except ValueError:
        seconds = 0.0
    if seconds < 60:
        hint = "Write --every hour, day, week, or a duration of a minute or more such as 30m."
        raise CommandFailure(f"--every {text}: not a time", hint, Exit.USAGE)
    return seconds
