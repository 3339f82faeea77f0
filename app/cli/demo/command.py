"""`penstock demo`: runs the whole service from start to end in under a minute."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import click
from rich.console import Console

from app.cli import presets
from app.cli.demo.figures import table
from app.cli.demo.session import run
from app.cli.failure import CommandFailure, Exit
from app.cli.setup import read, to_toml

REAL_COST = "200 short answers cost a few US cents at DeepSeek's prices of November 2026"


@click.command("demo")
@click.option(
    "--tasks", default=200, show_default=True, type=click.IntRange(2, 100_000), help="Number of prompts."
)
@click.option(
    "--upstream",
    type=click.Choice(["simulated", "deepseek"]),
    envvar="UPSTREAM",
    default="simulated",
    show_default=True,
    help="deepseek: the real one, with DEEPSEEK_API_KEY; costs money [UPSTREAM].",
)
@click.option("--yes", is_flag=True, help="Do not ask before spending money.")
@click.pass_context
def command(ctx: click.Context, tasks: int, upstream: str, yes: bool) -> None:
    """Run prompts through the whole service and show what happens.

    Starts everything in a temporary folder on free ports, submits English and Chinese prompts one by one and as a
    batch, receives and verifies the signed callbacks, reads the backlog from Flower, prints a table and exits with 0
    if all went well. Leaves nothing behind.

    \b
    penstock demo                              free of charge
    penstock demo --tasks 1000
    penstock demo --upstream deepseek          asks before spending money
    """
    console = Console()
    if upstream == "deepseek":
        _agree(tasks, yes=yes)
    with tempfile.TemporaryDirectory(prefix="penstock-demo-") as folder:
        configuration = _configuration(upstream, Path(folder))
        figures = run(console, tasks, configuration, simulated=upstream == "simulated")
    console.print(table(figures))
    for problem in figures.problems:
        console.print(f"[bold red]Problem:[/] {problem}")
    ctx.exit(Exit.FAILED if figures.problems else Exit.OK)


def _agree(tasks: int, *, yes: bool) -> None:
    """Ask before spending money."""
    if not os.environ.get("DEEPSEEK_API_KEY"):
        raise CommandFailure(
            "DEEPSEEK_API_KEY is not set", "export DEEPSEEK_API_KEY=sk-...", Exit.CONFIGURATION
        )
    click.echo(f"This makes {tasks:,} calls to DeepSeek and SPENDS MONEY on your account ({REAL_COST}).")
    if not yes and not click.confirm("Continue?"):
        raise click.Abort


def _configuration(upstream: str, folder: Path) -> Path:
    """The preset, with callbacks to this machine allowed."""
    if upstream == "simulated":
        return presets.DEMO
    file = folder / "penstock.toml"
    callbacks = read(presets.DEMO)["callbacks"]
    file.write_text(to_toml({**read(presets.DEEPSEEK), "callbacks": callbacks}), encoding="utf-8")
    return file
