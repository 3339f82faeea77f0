"""Money: what calls cost, what clients have used, and their budgets.

Begin with `domain/pricing.py` (dated prices, exact integers, currencies kept apart). `store/usage.py` is the ledger,
`store/budgets.py` reserves and settles. Peak hours and off-peak windows stand here too, since prices follow them.

Uses `access`, `tasks` and `platform`.
"""
