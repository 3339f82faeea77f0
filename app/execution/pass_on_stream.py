"""Pass a streamed answer on while its call runs: numbered chunks, then how many they were."""

from __future__ import annotations

from app.upstreams.domain.stream_piece import Piece
from app.upstreams.ports import StreamWriter


class PassOnStream:
    """One run of one task."""

    def __init__(self, writer: StreamWriter, task_id: str, release: int) -> None:
        self._writer = writer
        self._task_id = task_id
        self._release = release
        self._count = 0

    @property
    def begun(self) -> bool:
        """Whether anything was passed on: from then on the answer cannot begin anew."""
        return self._count > 0

    def send(self, data: bytes) -> None:
        """Pass the next chunk on."""
        number, self._count = self._count, self._count + 1
        self._writer.send(self._task_id, Piece(self._release, number, data))

    def end(self) -> None:
        """Say that the run is over and recorded, whatever came of it."""
        self._writer.send(self._task_id, Piece(self._release, self._count))
