"""`python -m app.cli` is `penstock`."""

from app.cli import main

main()
