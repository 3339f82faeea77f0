"""Drives a Celery peer: `drive.py recipe|inserting TASKS [WARM]` publishes, waits for the last, prints JSON."""

import json
import sys
import time


def recipe(tasks: int) -> dict:
    """Publish all, then wait for all results."""
    from celery import group
    from recipe import complete

    began = time.monotonic()
    results = group(complete.s(f"Count to {n}.") for n in range(tasks)).apply_async()
    failed = 0
    for result in results.results:
        try:
            result.get(timeout=600)
        except Exception:
            failed += 1
    return {"seconds": time.monotonic() - began, "failed": failed}


def inserting(tasks: int) -> dict:
    """Publish all, then wait until as many rows stand."""
    from inserting import answers, complete, engine, metadata
    from sqlalchemy import func, select

    metadata.create_all(engine)
    count = select(func.count()).select_from(answers)
    with engine.connect() as connection:
        before = connection.execute(count).scalar_one()
    began = time.monotonic()
    for n in range(tasks):
        complete.delay(f"Count to {n}.")
    while time.monotonic() - began < 600:
        with engine.connect() as connection:
            if connection.execute(count).scalar_one() - before >= tasks:
                break
        time.sleep(0.05)
    return {"seconds": time.monotonic() - began, "failed": 0}


if __name__ == "__main__":
    kind, number, warm = sys.argv[1], int(sys.argv[2]), int((sys.argv[3:] or ["50"])[0])
    run = {"recipe": recipe, "inserting": inserting}[kind]
    if warm:
        run(warm)
    began = time.process_time()
    found = run(number)
    print(json.dumps({**found, "cpu": time.process_time() - began}))
