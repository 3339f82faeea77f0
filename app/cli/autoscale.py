"""`penstock autoscale`: starts more workers where CPU is short, by a command of the operator's."""

from __future__ import annotations

import shlex
import subprocess
import time

import click

from app.cli.failure import CommandFailure, Exit
from app.cli.profile import on_database, opened
from app.diagnosis.domain.autoscaling import ScalingRules, wanted_replicas


@click.command("autoscale", short_help="scale workers by CPU, with a command of yours")
@click.option("--high", type=float, default=80.0, show_default=True, help="Percent of CPU from which to add.")
@click.option(
    "--low", type=float, default=30.0, show_default=True, help="Percent of CPU below which one less runs."
)
@click.option("--step", type=click.IntRange(1), default=3, show_default=True, help="Workers to add at once.")
@click.option("--min", "least", type=click.IntRange(1), default=1, show_default=True, help="Fewest workers.")
@click.option("--max", "most", type=click.IntRange(1), default=20, show_default=True, help="Most workers.")
@click.option("--cooldown", type=float, default=300.0, show_default=True, help="Seconds between two changes.")
@click.option(
    "--every", type=click.FloatRange(1), default=30.0, show_default=True, help="Seconds between looks."
)
@click.option("--command", "program", help="Run it with {replicas} replaced [default: print the number].")
@click.option("--once", is_flag=True, help="Look once and end.")
@click.option("--dry-run", is_flag=True, help="Print the command, run nothing.")
@on_database
def command(
    high: float, low: float, step: int, least: int, most: int, cooldown: float, every: float, program: str | None,
    once: bool, dry_run: bool,
) -> None:  # fmt: skip
    """Watch the CPU of the busiest machine and the number of workers, and change that number within bounds.

    CPU is what the processes report every ten seconds. At 8,000m of 10,000m (80 %) three more workers are wanted.

    \b
    penstock autoscale --dry-run --once
    penstock autoscale --max 20 --command "docker compose up -d --no-recreate --scale worker={replicas}"
    penstock autoscale --command "kubectl scale deployment/penstock-worker --replicas={replicas}"
    """
    if not low < high or least > most:
        raise CommandFailure(
            "the bounds cross", "Give --low below --high, and --min not above --max.", Exit.USAGE
        )
    rules = ScalingRules(high / 100, low / 100, step, least, most, cooldown)
    changed_at = -cooldown
    while True:
        cpu, workers = _look()
        wanted = wanted_replicas(rules, workers, cpu, time.monotonic() - changed_at)
        used = "CPU unknown" if cpu is None else f"CPU {cpu:.0%}"
        click.echo(f"{used}, {workers} workers: {'no change' if wanted == workers else f'{wanted} wanted'}")
        if wanted != workers and _act(program, wanted, dry_run=dry_run):
            changed_at = time.monotonic()
        if once:
            return
        time.sleep(every)


def _look() -> tuple[float | None, int]:
    """The CPU share of the busiest machine, and the workers with a recent heartbeat."""
    from app.diagnosis.probe_service import cpu_and_workers

    with opened() as database:
        return database.read(lambda conn: cpu_and_workers(conn, time.time()))


def _act(program: str | None, wanted: int, *, dry_run: bool) -> bool:
    """Run the command; whether it changed anything."""
    if program is None:
        return True
    words = [word.replace("{replicas}", str(wanted)) for word in shlex.split(program)]
    click.echo(shlex.join(words))
    if dry_run:
        return True
    try:
        done = subprocess.run(words, check=False)
    except OSError as error:
        raise CommandFailure(
            f"cannot run {words[0]}: {error.strerror}", "Correct --command.", Exit.USAGE
        ) from None
    if done.returncode:
        click.echo(f"the command failed with {done.returncode}; trying again at the next look", err=True)
    return done.returncode == 0
