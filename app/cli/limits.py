"""Open files: what the service needs of them."""

from __future__ import annotations

import resource

WANTED = 8192


def raise_open_files() -> int:
    """Raise the limit of this process and its children to 8192, or as far as it may; gives back the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return WANTED if soft == resource.RLIM_INFINITY else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):  # macOS sets limits of its own below the hard one
        return soft
    return wanted
