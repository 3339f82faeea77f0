"""Runs checks one by one and prints one line each. Standard library only: every client's environment imports it."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable

BASE_URL, API_KEY, MODEL = (os.environ.get(name, "") for name in ("BASE_URL", "API_KEY", "MODEL"))


def run(*checks: Callable[[], None]) -> None:
    """Run all; exit 1 if one failed."""
    failed = 0
    for check in checks:
        name = check.__name__.replace("_", " ")
        try:
            check()
        except Exception:
            failed += 1
            print(f"FAILED {name}", flush=True)
            traceback.print_exc(limit=-3, file=sys.stdout)
        else:
            print(f"passed {name}", flush=True)
    sys.exit(1 if failed else 0)
