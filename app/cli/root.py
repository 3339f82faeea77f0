"""`penstock`: the table of all commands, by section; each is imported when it is used, so that `--help` stays quick."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click

from app.cli.failure import translate
from app.cli.supervisor import lifeline


@dataclass(frozen=True, slots=True)
class Lazy:
    """Where a command stands (`module:attribute`), and the line that `--help` shows for it."""

    place: str
    line: str

    def load(self) -> click.Command:
        """Import it. Raises ImportError, AttributeError."""
        module, _, attribute = self.place.partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command


class LazyGroup(click.Group):
    """`sections` is what it offers: title -> name -> Lazy, in the order of the help page."""

    def __init__(self, sections: Mapping[str, Mapping[str, Lazy]], **attributes: Any) -> None:
        super().__init__(**attributes)
        self._sections = sections
        self._lazy = {name: lazy for section in sections.values() for name, lazy in section.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        lazy = self._lazy.get(cmd_name)
        return lazy.load() if lazy else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the commands section by section, without importing one of them."""
        for title, commands in self._sections.items():
            with formatter.section(title):
                formatter.write_dl([(name, lazy.line) for name, lazy in commands.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what went wrong becomes one line with its hint."""
        with translate():
            return super().invoke(ctx)


SECTIONS = {
    "Start here": {
        "demo": Lazy(
            "app.cli.demo.command:command", "200 prompts through the whole service, simulated; free of charge"
        ),
        "init": Lazy("app.cli.init:command", "write a first penstock.toml, from providers that are known"),
        "up": Lazy("app.cli.up:command", "run everything on this machine, and stay"),
    },
    "Use it": {
        "submit": Lazy(
            "app.cli.batch.submit:command", "a file of prompts as one batch, with an estimate first"
        ),
        "watch": Lazy("app.cli.batch.commands:watch_command", "watch a batch to its end"),
        "results": Lazy("app.cli.batch.commands:results", "the results of a batch, so far or in whole"),
        "cancel": Lazy("app.cli.batch.commands:cancel", "cancel a batch"),
        "pause": Lazy(
            "app.cli.batch.commands:pause", "start nothing more of a batch, a model, a client, or at all"
        ),
        "resume": Lazy("app.cli.batch.commands:resume", "let go on what was paused"),
        "retry": Lazy("app.cli.batch.commands:retry", "run the failed lines of a batch again"),
        "simulate": Lazy(
            "app.cli.simulate:command", "when a load would be done, and what one more key would change"
        ),
        "tasks": Lazy("app.cli.tasks:group", "look at, list and cancel tasks"),
        "cache": Lazy("app.cli.cache:group", "ask likely prompts before they are asked"),
        "reload": Lazy("app.cli.reload:reload_command", "read penstock.toml again while everything runs"),
        "status": Lazy("app.cli.status:command", "who holds work up; every quota, key and worker"),
        "keys": Lazy("app.cli.upstream_keys:group", "keys at upstreams: their state; pause, resume, test"),
        "usage": Lazy("app.cli.usage:command", "what was used, paid and saved"),
        "clients": Lazy("app.cli.clients:group", "add and list those who may submit"),
        "policy": Lazy("app.cli.policy:group", "who may run what, when, from where: keep and try policies"),
        "audit": Lazy("app.cli.audit:group", "who did what, and whether anything was taken out"),
        "apply": Lazy("app.cli.clients:apply_command", "make clients as a file says, with a diff first"),
        "alerts": Lazy("app.cli.alerts:group", "what fires now, and whether its channels work"),
        "callbacks": Lazy("app.cli.callbacks:group", "what could not be delivered, and its replay; secrets"),
        "listen": Lazy("app.cli.listen:command", "receive callbacks, verify and print them"),
    },
    "Parts (what `up` starts, one by one for containers)": {
        "api": Lazy("app.cli.processes:api", "the HTTP service"),
        "dispatcher": Lazy("app.cli.processes:dispatcher", "what releases tasks as fast as quotas allow"),
        "worker": Lazy("app.cli.processes:worker", "what calls the upstreams"),
        "callback-worker": Lazy("app.cli.processes:callback_worker", "what delivers callbacks"),
        "flower": Lazy("app.cli.flower:command", "the view into queues, workers and tasks"),
        "simulate-upstream": Lazy(
            "simulator.command:command", "a DeepSeek-like upstream with limits and faults"
        ),
        "redis": Lazy(
            "app.cli.processes:redis_server", "the Redis of our own that `up` uses without REDIS_URL"
        ),
        "db": Lazy("app.cli.processes:db_group", "bring the database up to date, or see whether it is"),
    },
    "See what is wrong": {
        "doctor": Lazy("app.cli.doctor.command:command", "look at everything, and say what mends it"),
        "profile": Lazy("app.cli.time_profile:command", "where the time of tasks goes, and what would help"),
    },
    "About": {
        "version": Lazy("app.cli.root:version_command", "which version this is, and of what"),
    },
}

EPILOG = """\b
Exit codes: 0 done, 1 failed or refused, 2 wrong usage, 3 wrong configuration,
4 service, database or Redis out of reach, 5 some requests of a batch failed.
"""

group = LazyGroup(
    SECTIONS,
    name="penstock",
    help='An asynchronous job queue for LLM APIs that answer "server busy".',
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def main() -> None:
    """The entry point `penstock`."""
    lifeline.hold()
    group(prog_name="penstock")


PARTS = ("celery", "kombu", "redis", "flower", "flask", "gunicorn", "sqlalchemy", "psycopg")


def penstock_version() -> str:
    """Our own version; "unknown" in a checkout that was never installed."""
    return _version("penstock")


@click.command("version", short_help="which version this is, and of what")
def version_command() -> None:
    """Print the versions of Penstock and of the parts that matter in a report.

    \b
    penstock version
    """
    click.echo(f"penstock {penstock_version()}")
    click.echo(f"python {platform.python_version()} on {platform.system()} {platform.machine()}")
    for part in PARTS:
        click.echo(f"{part} {_version(part)}")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
