"""SIGHUP from a terminal that was closed, and from somebody who wants a reload."""

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

from tests.cli.running import environment, wait_until

PROGRAM = """
import pathlib, signal, sys, time
from app.cli.supervisor.loop import Hangup
hangup, said = Hangup(), pathlib.Path(sys.argv[1])
def hear(*_):
    said.write_text(f"closed: {hangup.happened()}")
signal.signal(signal.SIGHUP, hear)
said.write_text("listening")
while True:
    time.sleep(60)
"""


def test_a_closed_terminal_is_told_from_a_reload(tmp_path: Path) -> None:
    said = tmp_path / "said"
    ours, theirs = pty.openpty()
    # A session leader that opens a terminal makes it its own: as a login shell's.
    line = f'exec "$0" -c "$1" "$2" <{os.ttyname(theirs)}'
    command = ["sh", "-c", line, sys.executable, PROGRAM, str(said)]
    with subprocess.Popen(command, start_new_session=True, env=environment()) as process:
        wait_until(lambda: said.exists() and said.read_text() == "listening")
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: said.read_text() == "closed: False")
        os.close(theirs)
        os.close(ours)
        wait_until(lambda: said.read_text() == "closed: True")
        process.kill()


def test_without_a_terminal_it_is_always_a_reload(tmp_path: Path) -> None:
    said = tmp_path / "said"
    command = [sys.executable, "-c", PROGRAM, str(said)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment()) as process:
        wait_until(lambda: said.exists() and said.read_text() == "listening")
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: said.read_text() == "closed: False")
        process.kill()
