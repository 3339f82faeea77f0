"""Calling a provider, and understanding its answer.

Start with `call_upstream.py` (one POST within a time limit, whole or streamed) and `domain/classify.py` (from a reply
to a verdict). `upstream_call.py` is one call in flight with its connection, `read_answer.py` reads its answer,
`domain/chat_stream.py` puts streams together, `domain/answer.py` says what an answer amounts to. What
providers say is data (`app/settings/profiles`); `domain/request_parameters.py` changes requests that they refuse, and
`learned_fixes.py` remembers what worked. `key_tests.py` tests keys, and `domain/key_health.py` judges them.

Uses `settings`, `tasks` and `platform`.
"""
