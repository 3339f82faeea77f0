"""Looking closer: `penstock doctor`, `penstock profile` and `penstock simulate`.

Begin with `examine.py` (checks side by side), `profile_tasks.py` (where the time goes) or `rehearse_load.py` (the
running `plan` on a virtual clock). Judgements are pure (`domain/`); probes measure.

Uses all rooms below.
"""
