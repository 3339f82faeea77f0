"""Prices, usage and budgets.

Begin with `domain/pricing.py` (dated prices, exact integers, currencies kept apart). `store/usage.py` is the ledger;
`store/budgets.py` reserves and settles. Peak hours and off-peak windows are here too, since prices depend on them.

Uses `access`, `tasks` and `platform`.
"""
