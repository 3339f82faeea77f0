"""`penstock up`: runs everything on one machine."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import click
from click.core import ParameterSource

from app.cli import stack
from app.cli.failure import CommandFailure
from app.cli.processes import raise_open_files
from app.cli.profile import data_folder, save
from app.cli.reload import Reload
from app.cli.setup import Setup, UpParams, find_configuration, prepare
from app.cli.stack import components
from app.cli.supervisor import lifeline
from app.cli.supervisor.leftovers import AlreadyRunningError, Run, end_leftovers, sole
from app.cli.supervisor.loop import Supervisor, Terminal
from app.reporting.meter_files import FOLDER, clean_folder
from app.settings import load_settings


def lines_at_start(setup: Setup) -> Iterator[str]:
    """What is about to run and with which upstream."""
    if setup.simulated:
        yield 'Simulated upstream: answers are generated, free of charge, and marked "simulated": true.'
    else:
        yield f"Real upstream: {setup.configuration}"
    yield "Starting..."


def lines_when_ready(setup: Setup) -> Iterator[str]:
    """Addresses, generated secrets and commands to paste into another terminal."""
    stack = setup.stack
    yield ""
    yield "Penstock is ready."
    yield f"  Web      {stack.url}   (the dashboard; sign in with an API key)"
    yield f"  API      {stack.url}/v1   (documentation at /docs)"
    login = setup.profile.flower_auth or "as in PENSTOCK_FLOWER_AUTH"
    yield f"  Flower   {stack.flower_url}   (user and password: {login})"
    if setup.profile.simulator_url:
        yield f"  Upstream {setup.profile.simulator_url}/stats   (simulated: calls accepted and refused)"
    yield f"  Data     {stack.data}   (logs in logs/, addresses and keys in profile.json)"
    if setup.new_admin_key:
        yield f"  Key      {setup.new_admin_key}   (administrator; shown once, stored in profile.json)"
    yield ""
    yield "In another terminal:"
    yield from (f"  {line}" for line in curl_lines(setup))
    yield f"  penstock listen{_data_option(setup)}   (receives callbacks; {_callback_hint(setup)})"
    yield ""
    yield "Press Ctrl-C to stop."


def curl_lines(setup: Setup) -> list[str]:
    """Commands that submit a task, list tasks and submit a batch; each can be pasted as it is."""
    url, header = setup.stack.url, _header(setup)
    json = "-H 'Content-Type: application/json'"
    task = """-d '{"prompt": "Say hello in three languages"}'"""
    batch = """-d '{"requests": [{"prompt": "one"}, {"prompt": "two"}], "batch_size": 5}'"""
    return [
        f"curl -s {url}/v1/tasks {header} {json} {task}",
        f"curl -s '{url}/v1/tasks?limit=1' {header}",
        f"curl -s {url}/v1/batch {header} {json} {batch}",
    ]


LISTEN_URL = "http://127.0.0.1:8787/"  # where `penstock listen` listens


def _data_option(setup: Setup) -> str:
    here = setup.stack.data == data_folder({})
    return "" if here else f" --data {shlex.quote(str(setup.stack.data))}"


def _callback_hint(setup: Setup) -> str:
    """How callbacks reach it, or what keeps them from it."""
    if setup.local_callbacks:
        return f'add "callback_url": "{LISTEN_URL}" to a task'
    return 'first set [callbacks] allow_networks = ["127.0.0.1/32"]'


def _header(setup: Setup) -> str:
    """The key from a file, so that it is in no shell history, or from the environment variable."""
    if not setup.profile.api_key:
        return '-H "Authorization: Bearer $PENSTOCK_ADMIN_KEY"'
    return f"-H @{shlex.quote(str(setup.stack.data / 'authorization'))}"


@click.command("up")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="Configuration [default: $PENSTOCK_CONFIG, ./penstock.toml].",
)
@click.option(
    "--simulate", is_flag=True, help="Use a simulated upstream: free, answers are marked as simulated."
)
@click.option("--simulate-without-key", is_flag=True, help="Simulate only if no upstream key is configured.")
@click.option(
    "--latency",
    default="lognormal:1.0,0.5",
    show_default=True,
    help="Latency of simulated answers, in seconds.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address the API listens on.")
@click.option(
    "--port", default=8000, show_default=True, help="Port of the API [if not given: the next free one]."
)
@click.option("--flower-port", default=5555, show_default=True, help="Port of Flower, on loopback.")
@click.option("--data", type=click.Path(path_type=Path), help="Data folder [default: .penstock].")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 64), help="Worker processes.")
@click.option("--verbose", is_flag=True, help="Show the output of every component.")
@click.pass_context
def command(
    ctx: click.Context,
    config: Path | None,
    simulate: bool,
    simulate_without_key: bool,
    latency: str,
    host: str,
    port: int,
    flower_port: int,
    data: Path | None,
    workers: int,
    verbose: bool,
) -> None:
    """Run everything on this machine until Ctrl-C: API, dispatcher, workers, callbacks, Flower.

    Without REDIS_URL it starts an embedded Redis; without DATABASE_URL it uses a SQLite file, both in the data
    folder. SIGTERM and Ctrl-C drain and stop everything in order; SIGHUP and `penstock reload` reload the
    configuration.

    \b
    penstock up --simulate                     try it free of charge
    DEEPSEEK_API_KEY=sk-... penstock up        DeepSeek, with nothing else to configure
    penstock up --config penstock.toml --workers 2
    """
    given = {
        name: ctx.get_parameter_source(name) is not ParameterSource.DEFAULT
        for name in ("port", "flower_port")
    }
    params = UpParams(
        data=data_folder(os.environ, data),
        config=config,
        simulate=simulate,
        simulate_without_key=simulate_without_key,
        host=host,
        port=port,
        port_explicit=given["port"],
        flower_port=flower_port,
        flower_port_explicit=given["flower_port"],
        workers=workers,
        latency=latency,
    )
    ctx.exit(run(params, verbose=verbose))


def run(params: UpParams, *, verbose: bool) -> int:
    """Lock the data folder, start everything and run. Returns the exit code. Raises CommandFailure."""
    os.umask(0o077)  # prompts and answers are private: databases, logs and Redis files as well
    params.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    _close_to_others(params.data)
    try:
        with sole(params.data / "run") as record:
            return _supervise(params, record, verbose=verbose)
    except AlreadyRunningError as error:
        raise _already(params, error) from None


def _close_to_others(folder: Path) -> None:
    """Take the rights of other users from a data folder that an earlier version or a person made."""
    for path in (folder, *folder.rglob("*")):
        with suppress(OSError):  # it is gone, or belongs to somebody else
            if not path.is_symlink() and (mode := path.stat().st_mode & 0o777) & 0o077:
                path.chmod(mode & 0o700)


def _supervise(params: UpParams, record: Run, *, verbose: bool) -> int:
    left = end_leftovers(record)
    setup = prepare(params, os.environ)
    if setup.stack.redis_port is None:
        stack.require_redis(setup.environment["REDIS_URL"])
    raise_open_files()
    clean_folder(Path(setup.environment[FOLDER]))
    parts = components(setup.stack, stack.http_probe, stack.leader_probe(setup.environment["REDIS_URL"]))
    terminal = Terminal([part.name for part in parts], verbose=verbose)
    if left:
        terminal.say(f"Stopped processes left by an earlier run: {', '.join(left)}")
    for line in lines_at_start(setup):
        terminal.say(line)
    logs = params.data / "logs"
    logs.mkdir(exist_ok=True)
    supervisor = Supervisor(
        parts, {**os.environ, **setup.environment}, logs, terminal, on_processes=record.record
    )
    settings = load_settings(find_configuration(params, os.environ).file, os.environ)
    reload = Reload(params, setup, settings, supervisor, terminal.say)
    code = supervisor.run(
        on_ready=lambda: _ready(params, setup, terminal),
        on_hangup=reload.hung_up,
    )
    record.clear()
    terminal.say(
        "Penstock has stopped."
        if code == 0
        else f"Penstock could not start or keep running; see the logs in {logs}"
    )
    return code


def _ready(params: UpParams, setup: Setup, terminal: Terminal) -> None:
    """Write the profile only now: a new key is stored when it is shown, not before."""
    save(params.data, setup.profile)
    for line in lines_when_ready(setup):
        terminal.say(line)
    lifeline.ready()


def _already(params: UpParams, error: AlreadyRunningError) -> CommandFailure:
    who = f" (process {error.pid})" if error.pid else ""
    hint = f"Stop it{f': kill {error.pid}' if error.pid else ''}, or use another folder: --data DIR"
    return CommandFailure(f"Penstock is already running with the data folder {params.data}{who}", hint)
