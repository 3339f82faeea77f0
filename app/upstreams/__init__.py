"""Calling a provider, and understanding its answer.

Start with `call_upstream.py` (one POST within a time limit, whole or streamed) and `domain/classify.py` (from a reply
to a verdict). `upstream_call.py` is one call in flight, `upstream_connections.py` its connections; `key_tests.py` tests
keys, and `domain/key_health.py` judges them.

Uses `settings`, `tasks` and `platform`.
"""
