"""Celery as far as it goes without promises: one urllib3 call and one insert a task, no retry, no result backend."""

import json
import os

import urllib3
from celery import Celery
from sqlalchemy import Column, Float, MetaData, String, Table, Text, create_engine, event, func

app = Celery("inserting", broker=os.environ["PEER_REDIS"])
app.conf.task_ignore_result = True
URL = os.environ["PEER_UPSTREAM"] + "/chat/completions"
HEADERS = {
    "authorization": "Bearer " + os.environ["PEER_KEYS"].split(",")[0],
    "content-type": "application/json",
}
MODEL = os.environ["PEER_MODEL"]
http = urllib3.PoolManager(maxsize=int(os.environ.get("PEER_THREADS", "100")), retries=False)
engine = create_engine(os.environ["PEER_DATABASE"], pool_size=20, max_overflow=0)
metadata = MetaData()
answers = Table(
    "answer",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("prompt", Text),
    Column("result", Text),
    Column("at", Float, server_default=func.random()),
)

if engine.dialect.name == "sqlite":

    @event.listens_for(engine, "connect")
    def _prepare(connection, _record):
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=30000"):
            connection.execute(f"PRAGMA {pragma}")


@app.task(bind=True)
def complete(self, prompt: str) -> None:
    """One prompt."""
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": prompt}]})
    answer = http.request("POST", URL, body=body, headers=HEADERS, timeout=600)
    if answer.status != 200:
        raise RuntimeError(answer.status)
    with engine.begin() as connection:
        connection.execute(
            answers.insert(), {"id": self.request.id, "prompt": prompt, "result": answer.data.decode()}
        )
