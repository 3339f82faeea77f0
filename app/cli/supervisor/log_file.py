"""The log of one component: a file that starts anew when it has grown."""

from __future__ import annotations

from pathlib import Path

MOST_BYTES = 10_000_000  # then NAME.log becomes NAME.log.1, and an older one of that name is gone


class LogFile:
    """Appends lines; each is in the file when `write` returns."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("ab", buffering=0)

    def write(self, line: bytes) -> None:
        """Append. Raises OSError when the disk is full."""
        if self._file.tell() >= MOST_BYTES:
            self._file.close()
            self._path.replace(self._path.with_suffix(".log.1"))
            self._file = self._path.open("ab", buffering=0)
        self._file.write(line)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
