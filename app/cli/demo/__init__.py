"""`penstock demo`: runs the whole service from start to end in under a minute."""
