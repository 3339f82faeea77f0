"""The Celery app: `celery -A workers worker` finds it here."""

from __future__ import annotations

from app.composition.container import from_environment

parts = from_environment()
celery = parts.celery
celery.conf.include = ["workers.lifecycle", "workers.tasks"]
celery.conf.worker_consumer = "workers.consumer:PromptConsumer"
