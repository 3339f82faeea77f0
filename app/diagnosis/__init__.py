"""Diagnosis: `penstock doctor`, `penstock profile` and `penstock simulate`.

Begin with `examine.py` (checks in parallel), `profile_tasks.py` (where the time goes) or `simulate_load.py` (the
dispatcher's `plan` on a virtual clock). Probes measure; `domain/` judges, and is pure.

Uses all rooms below.
"""
