"""What passes from a worker to whoever waits for a streamed answer: numbered, so that a gap is seen."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Piece:
    """One chunk of one run of a task, as the upstream sent it; `data` None: the run is over after `number` chunks."""

    release: int
    number: int  # from 0
    data: bytes | None = None

    def encode(self) -> bytes:
        """As it travels."""
        mark = b"." if self.data is None else b":"
        return b"%d %d%b%b" % (self.release, self.number, mark, self.data or b"")

    @classmethod
    def decode(cls, message: bytes) -> Piece:
        """Raises ValueError for anything else."""
        release, _, rest = message.partition(b" ")
        digits = len(rest) - len(rest.lstrip(b"0123456789"))
        mark, number = rest[digits : digits + 1], int(rest[:digits])
        if mark not in (b".", b":"):
            raise ValueError("not a piece")
        return cls(int(release), number, rest[digits + 1 :] if mark == b":" else None)
