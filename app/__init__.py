"""Penstock: an asynchronous job queue for LLM APIs that answer "server busy"."""
