"""`penstock submit` and what follows it."""
