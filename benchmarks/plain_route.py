"""The same Flask route that only inserts a row: what a submission costs without promises. For bench_api alone.

Served by the same gunicorn settings as ours: `python -m benchmarks.plain_route PORT DATABASE_URL`.
"""

from __future__ import annotations

import sys
import time

from flask import Flask, Response, request
from sqlalchemy import Column, Float, MetaData, String, Table, Text, create_engine

from app.api.serve import Serving, serve
from app.tasks.domain.task import new_id

metadata = MetaData()
tasks = Table(
    "plain_task",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("body", Text),
    Column("at", Float),
)


def make_app(url: str) -> Flask:
    """One route."""
    engine = create_engine(url, pool_size=20, max_overflow=0)
    metadata.create_all(engine)
    app = Flask("plain")

    @app.post("/v1/tasks")
    def submit() -> Response:
        body = request.get_json()
        row = {"id": new_id("task", time.time()), "body": body["prompt"], "at": time.time()}
        with engine.begin() as connection:
            connection.execute(tasks.insert(), row)
        answer = app.json.response({"id": row["id"], "status": "queued"})
        answer.status_code = 202
        return answer

    return app


if __name__ == "__main__":
    serve(lambda: make_app(sys.argv[2]), Serving(port=int(sys.argv[1])))
