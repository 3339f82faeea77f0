"""Measuring this machine; within a container, what that may use."""

from __future__ import annotations

import os
import resource
import shutil
import time
from pathlib import Path

import psutil

from app.diagnosis.domain.doctor_machine import Machine

_CGROUP = Path("/sys/fs/cgroup")  # version 2, as seen from within a container


def measure(seconds: float = 1.0) -> Machine:
    """Look for `seconds`; what this process itself uses meanwhile is left out."""
    own = time.process_time()
    used = psutil.cpu_percent(interval=seconds) / 100
    used -= (time.process_time() - own) / seconds / (psutil.cpu_count() or 1)
    memory = psutil.virtual_memory()
    total, free = _bounded(int(memory.total), int(memory.available))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(
        float(affinity), max(0.0, used), psutil.getloadavg()[0], total, free, _limit(soft), _limit(hard)
    )


def room(folder: Path) -> tuple[int, int]:
    """Free and all bytes of the disk that holds `folder`, or would hold it."""
    there = next((part for part in (folder, *folder.parents) if part.exists()), Path("/"))
    usage = shutil.disk_usage(there)
    return usage.free, usage.total


def _limit(value: int) -> int:
    return 1 << 20 if value == resource.RLIM_INFINITY else value


def _bounded(total: int, free: int) -> tuple[int, int]:
    """The container's own limit, where there is a lower one."""
    try:
        most = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):  # none, or "max"
        return total, free
    return (most, min(free, most - used)) if most < total else (total, free)
