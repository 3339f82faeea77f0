"""`penstock demo`: the whole service at work, start to end, in under a minute."""
