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
    """A command: where to import it from (`module:attribute`) and its line in `--help`."""

    place: str
    line: str

    def load(self) -> click.Command:
        """Import it. Raises ImportError, AttributeError."""
        module, _, attribute = self.place.partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command


class LazyGroup(click.Group):
    """A group of lazily imported commands. `sections`: title -> name -> Lazy, in the order of the help page."""

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
        """Write the commands section by section without importing any."""
        for title, commands in self._sections.items():
            with formatter.section(title):
                formatter.write_dl([(name, lazy.line) for name, lazy in commands.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error becomes one line and a hint."""
        with translate():
            return super().invoke(ctx)


SECTIONS = {
    "Start here": {
        "demo": Lazy(
            "app.cli.demo.command:command",
            "run 200 simulated prompts through the whole service, free of charge",
        ),
        "init": Lazy("app.cli.init:command", "write a first penstock.toml from provider presets"),
        "up": Lazy("app.cli.up:command", "run everything on this machine until Ctrl-C"),
    },
    "Use it": {
        "submit": Lazy(
            "app.cli.batch.submit:command", "submit a file of prompts as one batch, with an estimate first"
        ),
        "watch": Lazy("app.cli.batch.commands:watch_command", "watch a batch until it ends"),
        "results": Lazy("app.cli.batch.commands:results", "write the results of a batch, complete or so far"),
        "cancel": Lazy("app.cli.batch.commands:cancel", "cancel a batch"),
        "pause": Lazy("app.cli.batch.commands:pause", "pause a batch, model, client or everything"),
        "resume": Lazy("app.cli.batch.commands:resume", "resume a paused batch, model, client or everything"),
        "retry": Lazy("app.cli.batch.commands:retry", "rerun the failed lines of a batch"),
        "simulate": Lazy(
            "app.cli.simulate:command", "forecast when a load finishes and what one more key would change"
        ),
        "tasks": Lazy("app.cli.tasks:group", "show, list, cancel and retry tasks"),
        "cache": Lazy("app.cli.cache:group", "fill the cache with likely prompts"),
        "reload": Lazy("app.cli.reload:reload_command", "reload penstock.toml without a restart"),
        "status": Lazy("app.cli.status:command", "show what limits throughput: quotas, keys, workers"),
        "keys": Lazy("app.cli.upstream_keys:group", "show, pause, resume and test upstream keys"),
        "usage": Lazy("app.cli.usage:command", "show usage, cost and savings"),
        "clients": Lazy("app.cli.clients:group", "add, change and list clients"),
        "policy": Lazy(
            "app.cli.policy:group", "manage and test access policies: who may run what, when, from where"
        ),
        "audit": Lazy("app.cli.audit:group", "export the audit log and verify that it is complete"),
        "apply": Lazy(
            "app.cli.clients:apply_command", "create and change clients from a file, with a diff first"
        ),
        "alerts": Lazy("app.cli.alerts:group", "list firing alerts and test their channels"),
        "callbacks": Lazy(
            "app.cli.callbacks:group", "list and replay undelivered callbacks; rotate secrets; set headers"
        ),
        "listen": Lazy("app.cli.listen:command", "receive callbacks, verify and print them"),
    },
    "Single processes (what `up` starts; for containers)": {
        "api": Lazy("app.cli.processes:api", "run the HTTP service"),
        "dispatcher": Lazy("app.cli.processes:dispatcher", "release tasks as fast as quotas allow"),
        "worker": Lazy("app.cli.processes:worker", "call the upstreams"),
        "callback-worker": Lazy("app.cli.processes:callback_worker", "deliver callbacks"),
        "autoscale": Lazy("app.cli.autoscale:command", "scale workers by CPU, with a command of yours"),
        "flower": Lazy("app.cli.flower:command", "run Flower, the view of queues, workers and tasks"),
        "simulate-upstream": Lazy(
            "simulator.command:command", "run a simulated DeepSeek-like upstream with limits and faults"
        ),
        "redis": Lazy(
            "app.cli.processes:redis_server", "run the embedded Redis that `up` uses without REDIS_URL"
        ),
        "db": Lazy("app.cli.processes:db_group", "migrate the database, or check that it is up to date"),
    },
    "Find problems": {
        "doctor": Lazy("app.cli.doctor.command:command", "check everything and say how to fix what is wrong"),
        "profile": Lazy(
            "app.cli.time_profile:command", "show where tasks spend their time and what would help"
        ),
        "load-test": Lazy(
            "app.cli.load_test:command", "load one's own service in rising steps: pass or fail"
        ),
    },
    "About": {
        "version": Lazy("app.cli.root:version_command", "print the versions of Penstock and its parts"),
    },
}

EPILOG = """\b
Exit codes: 0 done, 1 failed or refused, 2 wrong usage, 3 wrong configuration,
4 service, database or Redis unreachable, 5 some requests of a batch failed.
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
    """Penstock's version; "unknown" in a checkout that was never installed."""
    return _version("penstock")


@click.command("version", short_help="print the versions of Penstock and its parts")
def version_command() -> None:
    """Print the versions of Penstock and its main dependencies, for bug reports.

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
