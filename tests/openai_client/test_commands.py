"""`penstock submit` and what follows it, as an operator types it, against the whole service."""

from __future__ import annotations

import csv
import signal
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.openai_client.world import FAST, ONE, World
from tests.stack import PATIENCE, wait_until


@pytest.fixture
def run(world: World, tmp_path: Path) -> Any:
    """run("submit", "x.txt") in a folder of its own; gives back the finished process."""

    def run(*arguments: str, given: str = "", code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            world.stack._command(arguments),
            cwd=tmp_path,
            env=environment(world, tmp_path),
            input=given,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return run


def environment(world: World, folder: Path) -> dict[str, str]:
    checkout = str(Path(__file__).resolve().parents[2])
    keys = {"PENSTOCK_URL": world.stack.url, "PENSTOCK_API_KEY": world.stack.admin_key}
    return {**world.stack.environment, **keys, "PENSTOCK_DATA": str(folder), "PYTHONPATH": checkout}


def batch_of(done: subprocess.CompletedProcess[str]) -> str:
    return next(word for word in done.stdout.split() if word.startswith("batch_"))


def test_plain_lines_are_submitted_watched_and_kept_in_order(run: Any, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("one\n\ntwo\nthree\n")
    said = run("submit", "prompts.txt", "--model", FAST, "--out", "out.jsonl").stderr
    assert "3 requests" in said
    lines = [orjson.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    answers = [line["result"]["choices"][0]["message"]["content"] for line in lines]
    assert [answer.rsplit(" ", 1)[1] for answer in answers] == ["one", "two", "three"]


def test_csv_keeps_its_columns_beside_the_answers(run: Any, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text('name,status\n"Ann, B.",x\nBob,y\n')
    run("submit", "rows.csv", "--model", FAST, "--template", "Greet {name} {{so}}", "--out", "out.csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["name"], first["status"], first["penstock_status"]) == ("Ann, B.", "x", "succeeded")
    assert first["answer"].endswith("Greet Ann, B. {so}")
    assert second["answer"].endswith("Greet Bob {so}")


def test_openai_lines_and_standard_input_are_taken_and_partial_failure_has_a_code(
    run: Any, tmp_path: Path
) -> None:
    def line(name: str, words: str) -> bytes:
        body = {"model": FAST, "messages": [{"role": "user", "content": words}], "temperature": 1}
        return orjson.dumps(
            {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}
        )

    text = b"\n".join([line("good", "hi"), line("bad", "[bad]")]).decode()
    done = run("submit", "-", "--watch", given=text, code=5)
    batch = batch_of(done)
    shown = run("results", batch, code=5).stdout.splitlines()
    assert [orjson.loads(one)["custom_id"] for one in shown] == ["good", "bad"]
    assert run("retry", batch, "--watch", code=5).stderr.count("1 of 2 done") == 2


def test_a_dry_run_and_a_price_that_nobody_knows_submit_nothing(
    run: Any, world: World, tmp_path: Path
) -> None:
    (tmp_path / "p.txt").write_text("one\n")
    before = len(world.client().batches.list(limit=100).data)
    assert "1 request, about" in run("submit", "p.txt", "--model", FAST, "--dry-run").stderr
    assert (
        "the cost is not known" in run("submit", "p.txt", "--model", FAST, "--max-cost", "5", code=1).stderr
    )
    assert "line 2" in run("submit", "-", "--kind", "jsonl", given='{"prompt":"a"}\n{', code=1).stderr
    assert len(world.client().batches.list(limit=100).data) == before


def test_a_sample_runs_first(run: Any, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("".join(f"line {n}\n" for n in range(10)))
    done = run("submit", "p.txt", "--model", FAST, "--sample", "2", "--watch", "--yes")
    assert "Sample: 2 of 2 requests succeeded." in done.stderr
    assert "10 of 10 done" in done.stderr


def test_a_sample_runs_now_whenever_the_rest_is_to_run(run: Any, tmp_path: Path) -> None:
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    lines = [orjson.dumps({"prompt": f"line {n}", "run_at": tomorrow}).decode() for n in range(4)]
    (tmp_path / "p.jsonl").write_text("\n".join(lines))
    done = run("submit", "p.jsonl", "--model", FAST, "--sample", "2", "--run-at", tomorrow, "--yes")
    assert "Sample: 2 of 2 requests succeeded." in done.stderr
    run("cancel", batch_of(done))


def test_a_batch_is_paused_resumed_and_cancelled(run: Any, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text(
        "[3 seconds] hold\n" * 60
    )  # one after the other: longer than the commands take
    batch = batch_of(run("submit", "p.txt", "--model", ONE))
    assert "in_progress" in run("pause", batch).stderr
    assert "in_progress" in run("resume", batch).stderr
    assert "cancel" in run("cancel", batch).stderr


def test_ctrl_c_ends_the_watching_alone(run: Any, world: World, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("watched\nafter\n")
    command = world.stack._command(["submit", "p.txt", "--model", ONE, "--out", "out.jsonl"])
    env = environment(world, tmp_path)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    with world.held(ONE):  # it cannot end before the signal comes
        with (tmp_path / "said").open("w") as said:
            process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=said, stderr=subprocess.DEVNULL)
        signal.signal(signal.SIGINT, before)
        wait_until(lambda: "batch_" in (tmp_path / "said").read_text(), what="submitted")
        wait_until(lambda: list(tmp_path.glob("jobs/*.json")), what="remembered")
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
    run("watch", (tmp_path / "said").read_text().strip())
    assert len((tmp_path / "out.jsonl").read_bytes().splitlines()) == 2
