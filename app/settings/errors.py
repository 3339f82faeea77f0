"""What is wrong with the configuration, where, and how to mend it."""

from dataclasses import dataclass

from app.platform.domain.errors import PenstockError

# A place in the file as pydantic gives it: ("key", 1, "weight") is `weight` in the second [[key]].
Place = tuple[str | int, ...]


class ConfigError(PenstockError):
    """The service cannot start like this. Prints as `penstock.toml:12: what is wrong; mend: what to do`."""

    def __init__(self, file: str, line: int | None, message: str, mend: str) -> None:
        where = file if line is None else f"{file}:{line}"
        super().__init__(f"{where}: {message}; mend: {mend}")
        self.file = file
        self.line = line
        self.message = message
        self.mend = mend


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """One fault, before its line is known."""

    place: Place
    message: str
    mend: str
