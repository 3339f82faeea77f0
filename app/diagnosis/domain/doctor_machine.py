"""This machine, judged: processors, memory, disk, open files."""

from __future__ import annotations

from dataclasses import dataclass

from app.diagnosis.domain.finding import Finding, fail, ok, warn

WANTED_FILES = 8192
FILES_BESIDE_CALLS = 200  # of a worker: database, Redis, logs
_GIB = 1024**3
BUSY_CPU = 0.85
SCARCE_MEMORY, NO_MEMORY = 0.10, 0.04  # of all
SCARCE_DISK, NO_DISK = 2 * _GIB, 0.25 * _GIB


@dataclass(frozen=True, slots=True)
class Machine:
    """Figures of this machine, or of the container that bounds it."""

    cpus: float
    cpu_used: float  # share, measured for a second
    load: float  # processes that want to run, over the last minute
    memory: int  # bytes, all
    memory_free: int  # bytes that could be had
    files: int  # open files that a process may have now
    most_files: int  # as far as it may raise that itself


def judge_cpu(machine: Machine) -> Finding:
    """Whether there is time left to run in."""
    said = f"{machine.cpu_used:.0%} of {machine.cpus:g} CPUs used, load {machine.load:.1f}"
    if machine.cpu_used > BUSY_CPU:
        return warn(
            "CPU", said, "Find what uses it (top), or give the service more; answers are recorded late."
        )
    return ok("CPU", said)


def judge_memory(machine: Machine) -> Finding:
    """Whether there is memory left."""
    share = machine.memory_free / machine.memory if machine.memory else 0.0
    said = f"{_size(machine.memory_free)} of {_size(machine.memory)} free"
    mend = "Lower [worker] concurrency or end something else: a process that is killed makes its calls again."
    if share < NO_MEMORY:
        return fail("memory", said, mend)
    return warn("memory", said, mend) if share < SCARCE_MEMORY else ok("memory", said)


def judge_disk(what: str, folder: str, free: int, total: int) -> Finding:
    """Whether a folder can still be written to."""
    name = f"disk of {what}"
    said = f"{_size(free)} of {_size(total)} free in {folder}"
    mend = "Make room: a full disk stops the database, and with it everything."
    if free < NO_DISK:
        return fail(name, said, mend)
    return warn(name, said, mend) if free < SCARCE_DISK else ok(name, said)


def judge_files(machine: Machine, concurrency: int) -> Finding:
    """Whether a worker can hold all its connections at once."""
    within = max(machine.files, min(machine.most_files, WANTED_FILES))
    said = f"{machine.files:,} open files, up to {machine.most_files:,}"
    mend = f"Raise the limit to {WANTED_FILES} (ulimit -n, LimitNOFILE=), or lower [worker] concurrency."
    if within < concurrency + FILES_BESIDE_CALLS:
        return fail("open files", f"{said}: too few for {concurrency:,} calls at once", mend)
    return warn("open files", said, mend) if within < WANTED_FILES else ok("open files", said)


def _size(count: float) -> str:
    return f"{count / _GIB:.1f} GiB"
