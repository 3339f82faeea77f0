"""The usual recipe: a Celery task that calls with tenacity's backoff and jitter, keys in turn, results in Redis.

Backoff and tries are those of the OpenAI cookbook ("How to handle rate limits"): wait_random_exponential(1, 60),
six attempts.
"""

import itertools
import os
import threading

import requests
from celery import Celery
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random_exponential

app = Celery("recipe", broker=os.environ["PEER_REDIS"], backend=os.environ["PEER_REDIS"])
KEYS = itertools.cycle(os.environ["PEER_KEYS"].split(","))
URL = os.environ["PEER_UPSTREAM"] + "/chat/completions"
MODEL = os.environ["PEER_MODEL"]
_local = threading.local()
_turn = threading.Lock()


class Busy(Exception):
    """429, or a server error."""


@retry(
    wait=wait_random_exponential(min=1, max=60),
    stop=stop_after_attempt(6),
    retry=retry_if_exception_type((Busy, requests.ConnectionError, requests.Timeout)),
    reraise=True,
)
def _complete(prompt: str) -> str:
    with _turn:
        key = next(KEYS)
    if not hasattr(_local, "session"):
        _local.session = requests.Session()
    answer = _local.session.post(
        URL,
        json={"model": MODEL, "messages": [{"role": "user", "content": prompt}]},
        headers={"authorization": f"Bearer {key}"},
        timeout=600,
    )
    if answer.status_code == 429 or answer.status_code >= 500:
        raise Busy(answer.status_code)
    answer.raise_for_status()
    return str(answer.json()["choices"][0]["message"]["content"])


@app.task
def complete(prompt: str) -> str:
    """One prompt."""
    return _complete(prompt)
