"""Celery: the application, its tasks, and the dispatcher process."""
