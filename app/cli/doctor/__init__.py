"""`penstock doctor`: everything an operator would look at."""
