"""Who may call, and what they may do.

Begin with `authenticate.py` (API key to caller) and `domain/policy.py` (deny overrides allow). Clients, their keys,
scopes and limits, attribute-based policies, browser sessions, and the audit log with its chain of digests.

Uses `tasks` and `platform`.
"""
