"""`penstock`: everything that can be said to it, by section."""

from __future__ import annotations

from app.cli.group import Lazy, LazyGroup
from app.cli.supervisor import lifeline

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
        "pause": Lazy("app.cli.pauses:pause", "start nothing more of a batch, a model, a client, or at all"),
        "resume": Lazy("app.cli.pauses:resume", "let go on what was paused"),
        "retry": Lazy("app.cli.batch.commands:retry", "run the failed lines of a batch again"),
        "simulate": Lazy(
            "app.cli.simulate:command", "when a load would be done, and what one more key would change"
        ),
        "tasks": Lazy("app.cli.tasks:group", "look at, list and cancel tasks"),
        "cache": Lazy("app.cli.cache:group", "ask likely prompts before they are asked"),
        "reload": Lazy("app.cli.reload_command:command", "read penstock.toml again while everything runs"),
        "status": Lazy("app.cli.status:command", "who holds work up; every quota, key and worker"),
        "keys": Lazy("app.cli.upstream_keys:group", "keys at upstreams: their state; pause, resume, test"),
        "usage": Lazy("app.cli.usage:command", "what was used, paid and saved"),
        "clients": Lazy("app.cli.clients:group", "add and list those who may submit"),
        "policy": Lazy("app.cli.policy:group", "who may run what, when, from where: keep and try policies"),
        "audit": Lazy("app.cli.audit:group", "who did what, and whether anything was taken out"),
        "apply": Lazy("app.cli.apply:command", "make clients as a file says, with a diff first"),
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
        "redis": Lazy("app.cli.redis:command", "the Redis of our own that `up` uses without REDIS_URL"),
        "db": Lazy("app.cli.db:group", "bring the database up to date, or see whether it is"),
    },
    "See what is wrong": {
        "doctor": Lazy("app.cli.doctor.command:command", "look at everything, and say what mends it"),
        "profile": Lazy("app.cli.time_profile:command", "where the time of tasks goes, and what would help"),
    },
    "About": {
        "version": Lazy("app.cli.version:command", "which version this is, and of what"),
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
