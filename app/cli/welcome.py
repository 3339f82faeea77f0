"""What `penstock up` prints: once at the start, once when everything answers."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from app.cli.setup import Setup


def before(setup: Setup) -> Iterator[str]:
    """What is about to run, and with which upstream."""
    if setup.simulated:
        yield 'Simulated upstream: answers are made up, free of charge, and marked "simulated": true.'
    else:
        yield f"Real upstream: {setup.configuration}"
    yield "Starting ..."


def after(setup: Setup) -> Iterator[str]:
    """Addresses, what was made for this folder, and lines to paste into another terminal."""
    stack = setup.stack
    yield ""
    yield "Penstock is ready."
    yield f"  Look     {stack.url}   (the dashboard; sign in with an API key)"
    yield f"  API      {stack.url}/v1   (documentation at /docs)"
    login = setup.profile.flower_auth or "as in PENSTOCK_FLOWER_AUTH"
    yield f"  Flower   {stack.flower_url}   (user and password: {login})"
    if setup.profile.simulator_url:
        yield f"  Upstream {setup.profile.simulator_url}/stats   (simulated: what it has admitted and refused)"
    yield f"  Data     {stack.data}   (logs in logs/, addresses and keys in profile.json)"
    if setup.new_admin_key:
        yield f"  Key      {setup.new_admin_key}   (administrator; shown this once, kept in profile.json)"
    yield ""
    yield "In another terminal:"
    yield from (f"  {line}" for line in curl_lines(setup))
    yield ""
    yield "Ctrl-C ends it in order."


def curl_lines(setup: Setup) -> list[str]:
    """A task and its answer, a batch, a list: each line runs as it stands."""
    url, header = setup.stack.url, _header(setup)
    json = "-H 'Content-Type: application/json'"
    task = """-d '{"prompt": "Say hello in three languages"}'"""
    batch = """-d '{"requests": [{"prompt": "one"}, {"prompt": "two"}], "batch_size": 5}'"""
    return [
        f"curl -s {url}/v1/tasks {header} {json} {task}",
        f"curl -s '{url}/v1/tasks?limit=1' {header}",
        f"curl -s {url}/v1/batch {header} {json} {batch}",
    ]


def _header(setup: Setup) -> str:
    """The key by a file, so that it stands in no history; or by the variable that gave it to us."""
    if not setup.profile.api_key:
        return '-H "Authorization: Bearer $PENSTOCK_ADMIN_KEY"'
    return f"-H @{shlex.quote(str(setup.stack.data / 'authorization'))}"
