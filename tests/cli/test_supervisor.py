"""The supervisor with real processes: small ones of ours, which say what happens to them."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from app.cli.supervisor.leftovers import AlreadyRunningError, end_leftovers, sole

CHECKOUT = Path(__file__).parents[2]
# A supervisor of a few children, each a line of Python; `said` collects what it was told.
SUPERVISOR = """
import sys
from pathlib import Path
from app.cli.supervisor.decisions import Component, RestartPolicy
from app.cli.supervisor.leftovers import sole
from app.cli.supervisor.loop import Supervisor

folder = Path(sys.argv[1])

class Teller:
    def line(self, component, line): print("line", component, line, flush=True)
    def changed(self, component, state, child, code):
        print(state.phase, component.name, child.pid if child else "-", code, flush=True)

def python(name, text, **more):
    return Component(name, (sys.executable, "-c", PRELUDE + text), **more)

PRELUDE = "from app.cli.supervisor import lifeline; import os, signal, sys, time; lifeline.hold();"
STAY = "lifeline.ready();\\nwhile True: time.sleep(60)"
COMPONENTS = [{components}]
policy = RestartPolicy(first_seconds=0.05, most_seconds=0.2, tries=2)
with sole(folder / "run") as run:
    supervisor = Supervisor(COMPONENTS, dict(__import__("os").environ), folder, Teller(), policy=policy,
                            on_processes=run.record)
    code = supervisor.run(on_ready=lambda: print("all ready", flush=True), on_hangup=supervisor.renew)
sys.exit(code)
"""


class Ran:
    """A running supervisor and the lines it has printed so far."""

    def __init__(self, folder: Path, components: str) -> None:
        text = SUPERVISOR.replace("{components}", textwrap.dedent(components))
        self.process = subprocess.Popen(
            [sys.executable, "-c", text, str(folder)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        )
        self.lines: list[str] = []

    def until(self, wanted: str) -> str:
        """Read lines up to the first that begins so."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.strip())
            if line.startswith(wanted):
                return line.strip()
        raise AssertionError(f"never said {wanted!r}: {self.lines}")

    def until_all(self, *wanted: str) -> list[str]:
        """Read lines until each of these has begun one, in whatever order they come; gives back those lines."""
        found: dict[str, str] = {}
        while len(found) < len(wanted):
            line = self.until("")
            found.update({one: line for one in wanted if line.startswith(one)})
        return [found[one] for one in wanted]

    def end(self) -> int:
        """SIGTERM, and everything it still says."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.stdout is not None
        self.lines += [line.strip() for line in self.process.stdout]
        return self.process.wait(60)


Start = Callable[[str], Ran]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """start(components): a supervisor in the test's folder."""
    running: list[Ran] = []

    def make(components: str) -> Ran:
        running.append(Ran(tmp_path, components))
        return running[-1]

    yield make
    for ran in running:
        ran.process.kill()
        ran.process.wait()
        assert ran.process.stdout is not None
        ran.process.stdout.close()


def gone(pid: int) -> bool:
    """Whether a process is dead (a zombie that nobody waits for counts as dead), within some seconds."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


def test_components_start_in_order_of_readiness_and_stop_in_the_reverse(start: Start) -> None:
    ran = start('python("house", STAY, after=("ground",)), python("ground", STAY)')
    ran.until("all ready")
    assert ran.end() == 0
    order = [line.split()[:2] for line in ran.lines if not line.startswith(("all", "line"))]
    assert order == [
        ["starting", "ground"],
        ["ready", "ground"],
        ["starting", "house"],
        ["ready", "house"],
        ["stopping", "house"],
        ["stopped", "house"],
        ["stopping", "ground"],
        ["stopped", "ground"],
    ]


def test_a_crashed_component_is_started_again(start: Start) -> None:
    ran = start('python("part", STAY)')
    pid = int(ran.until("ready part").split()[2])
    os.kill(pid, signal.SIGKILL)
    ran.until("backoff part")
    assert int(ran.until("ready part").split()[2]) != pid
    assert ran.end() == 0


def test_a_component_that_never_works_ends_everything_with_a_failure(start: Start) -> None:
    ran = start('python("good", STAY), python("bad", "sys.exit(1)", after=("good",))')
    ran.until("gave_up bad")
    ran.until("stopped good")
    assert ran.process.wait(60) == 1


def test_one_that_ignores_sigterm_is_killed_after_its_time(start: Start) -> None:
    deaf = '"signal.signal(signal.SIGTERM, signal.SIG_IGN);" + STAY'
    ran = start(f'python("deaf", {deaf}, stop_seconds=0.3)')
    ran.until("all ready")
    assert ran.end() == 0
    assert any(line.startswith("stopped deaf") and line.endswith("-9") for line in ran.lines)


def test_sighup_renews_what_reads_the_configuration_and_reaches_no_component(start: Start) -> None:
    teller = "\"signal.signal(signal.SIGHUP, lambda *_: print('HUP', flush=True));\" + STAY"
    ran = start(f'python("fixed", {teller}), python("reads", {teller}, renewed=True)')
    ran.until("all ready")
    ran.process.send_signal(signal.SIGHUP)
    ran.until("stopping reads")
    ran.until("ready reads")
    assert ran.end() == 0
    assert not [line for line in ran.lines if "HUP" in line or line.startswith("backoff")]


def test_kill_9_of_the_supervisor_leaves_no_component_and_nothing_that_they_forked(start: Start) -> None:
    forks = '"""child = os.fork();\nif child: print("forked", child, flush=True);\n""" + STAY'
    ran = start(f'python("plain", STAY), python("forks", {forks})')
    said, _ = ran.until_all("line forks forked", "all ready")
    forked = int(said.split()[3])
    pids = [int(line.split()[2]) for line in ran.lines if line.startswith("ready")]
    ran.process.kill()
    assert all(gone(pid) for pid in [*pids, forked])


def test_a_last_deed_is_done_before_dying_with_the_supervisor(start: Start, tmp_path: Path) -> None:
    """Such a component is not killed by the kernel: the pipe alone tells it, as on macOS."""
    action = f"lifeline.before_death(lambda: open('{tmp_path / 'action'}', 'w').close());"
    ran = start(f'python("careful", """{action}""" + STAY)')
    pid = int(ran.until("ready careful").split()[2])
    ran.process.kill()
    assert gone(pid)
    assert (tmp_path / "action").exists()


def test_what_survived_a_killed_run_is_recognised_and_ended_at_the_next_start(
    start: Start, tmp_path: Path
) -> None:
    ran = start('Component("stubborn", ("sleep", "1000"), probe=lambda: True)')
    pid = int(ran.until("ready stubborn").split()[2])
    ran.process.kill()
    ran.process.wait()
    with sole(tmp_path / "run") as run:
        assert end_leftovers(run) == ["stubborn"]
        assert run.recorded() == {}
    assert gone(pid)


def test_a_process_that_has_taken_over_a_recorded_id_is_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as stranger:
        with sole(tmp_path / "run") as run:
            run.record({"worker-1": stranger.pid})
            file = tmp_path / "run" / "processes.json"
            file.write_text(file.read_text().replace(str(psutil.Process(stranger.pid).create_time()), "1.0"))
            assert end_leftovers(run) == []
        assert stranger.poll() is None
        stranger.kill()


def test_two_supervisors_never_share_a_folder(start: Start, tmp_path: Path) -> None:
    ran = start('python("part", STAY)')
    ran.until("all ready")
    with pytest.raises(AlreadyRunningError) as refused, sole(tmp_path / "run"):
        pass
    assert refused.value.pid == ran.process.pid
