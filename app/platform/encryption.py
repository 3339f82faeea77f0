"""Prompts, results and what may quote them, at rest: encrypted where a key is configured.

AES-256-GCM, a nonce of its own for each value.

What is stored is `enc1:<the key's name>:<base64 of nonce and ciphertext>`; plain values are read as they are, so that
a key may be introduced, and replaced by another, while old rows stand. The keys are the process', set once at start.
Plain values that begin like a sealed one, as any upstream's words may, are stored behind a mark of their own.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from sqlalchemy import Dialect, LargeBinary, Text
from sqlalchemy.types import TypeDecorator

from app.platform.domain.errors import PenstockError

_MARK = "enc1:"
_BYTES_MARK = b"\x00penstock-enc1:"  # before bytes; no text, and so no JSON line, begins so
_PLAIN, _BYTES_PLAIN = (
    "enc0:",
    b"\x00penstock-enc0:",
)  # before plain values that begin like these or those above
_NONCE = 12  # bytes
UNREADABLE = "(encrypted by a key that is not configured here)"  # a message, in lists
_LEAST = _NONCE + 16  # bytes: with the tag of GCM, around nothing
_SEALED = re.compile(r"enc1:([0-9a-f]{8}):([A-Za-z0-9+/]+={0,2})")
_SEALED_BYTES = re.compile(rb"\x00penstock-enc1:([0-9a-f]{8}):.{28}", re.DOTALL)


class Unsealable(PenstockError):
    """A value was encrypted by a key that is not configured here, or was changed. The message holds no secret."""

    def __init__(self, words: str, key_id: str) -> None:
        """`key_id` names the key that is wanted: eight hexadecimal digits, as stored beside each value."""
        super().__init__(words)
        self.key_id = key_id


class KeyRing:
    """Keys: the first one encrypts, all of them decrypt."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        """Any secrets of some length; each is hashed into a key of 256 bits."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        keys = [hashlib.sha256(b"penstock content key\n" + secret).digest() for secret in secrets]
        self._keys = {hashlib.sha256(key).hexdigest()[:8]: AESGCM(key) for key in keys}
        self._name, self._seals = next(iter(self._keys.items()))

    def seal(self, text: str) -> str:
        """Encrypt."""
        return f"{_MARK}{self._name}:{base64.b64encode(self._encrypt(text.encode())).decode()}"

    def unseal(self, stored: str) -> str:
        """Decrypt. Raises Unsealable."""
        _, name, sealed = stored.split(":", 2)
        return self._decrypt(name, base64.b64decode(sealed)).decode()

    def seal_bytes(self, data: bytes) -> bytes:
        """Encrypt."""
        return _BYTES_MARK + self._name.encode() + b":" + self._encrypt(data)

    def unseal_bytes(self, stored: bytes) -> bytes:
        """Decrypt. Raises Unsealable."""
        name, _, sealed = stored.removeprefix(_BYTES_MARK).partition(b":")
        return self._decrypt(name.decode(errors="replace"), sealed)

    def _encrypt(self, data: bytes) -> bytes:
        nonce = os.urandom(_NONCE)
        return nonce + self._seals.encrypt(nonce, data, self._name.encode())

    def _decrypt(self, name: str, sealed: bytes) -> bytes:
        key = self._keys.get(name)
        if key is None:
            raise Unsealable(
                f"content was encrypted by the key {name}, which is not configured here (only "
                f"{', '.join(sorted(self._keys))}): put the reference of its secret into [storage] previous_keys",
                name,
            )
        try:
            return bytes(key.decrypt(sealed[:_NONCE], sealed[_NONCE:], name.encode()))
        except Exception as error:
            raise Unsealable("encrypted content was changed, or cut off", name) from error


_vault: KeyRing | None = None


def use_vault(vault: KeyRing | None) -> None:
    """Encrypt from here on, in this process; None: no more."""
    global _vault  # noqa: PLW0603 - columns know no process but this one
    _vault = vault


_unreadable: ContextVar[list[Unsealable] | None] = ContextVar("unreadable", default=None)


@contextmanager
def leniently() -> Iterator[list[Unsealable]]:
    """For lists: what cannot be opened here is left out of its row and added to what this gives."""
    found: list[Unsealable] = []
    token = _unreadable.set(found)
    try:
        yield found
    finally:
        _unreadable.reset(token)


def seal(text: str) -> str:
    """Content as it is stored."""
    if _vault is not None:
        return _vault.seal(text)
    return _PLAIN + text if text.startswith((_MARK, _PLAIN + "enc")) else text


def unseal(stored: str) -> str:
    """Content as it was given. Raises Unsealable."""
    if stored.startswith(_PLAIN + "enc"):
        return stored.removeprefix(_PLAIN)
    found = _SEALED.fullmatch(stored) if stored.startswith(_MARK) else None
    if found is None or len(found[2]) * 3 // 4 - found[2].count("=") < _LEAST:
        return stored  # somebody else's words
    return _opener(found[1]).unseal(stored)


def seal_bytes(data: bytes) -> bytes:
    """Content as it is stored."""
    if _vault is not None:
        return _vault.seal_bytes(data)
    return _BYTES_PLAIN + data if data.startswith((_BYTES_MARK, _BYTES_PLAIN + b"\x00")) else data


def unseal_bytes(stored: bytes) -> bytes:
    """Content as it was given. Raises Unsealable."""
    if stored.startswith(_BYTES_PLAIN + b"\x00"):
        return stored.removeprefix(_BYTES_PLAIN)
    found = _SEALED_BYTES.match(stored)
    return stored if found is None else _opener(found[1].decode()).unseal_bytes(stored)


def _opener(name: str) -> KeyRing:
    if _vault is None:
        raise Unsealable(
            f"content was encrypted by the key {name}, and no key is configured in this process: put the reference "
            "of its secret into [storage] encryption_key",
            name,
        )
    return _vault


class Sealed(TypeDecorator[str]):
    """A text column whose values are encrypted on their way in, where a key is configured."""

    impl = Text
    cache_ok = True

    def __init__(self, unreadable: str | None = None) -> None:
        """`unreadable` stands in lists for what cannot be opened."""
        super().__init__()
        self.unreadable = unreadable

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        """On the way in."""
        return None if value is None else seal(value)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        """On the way out."""
        try:
            return None if value is None else unseal(value)
        except Unsealable as error:
            if (found := _unreadable.get()) is None:
                raise
            found.append(error)
            return self.unreadable


class SealedBytes(TypeDecorator[bytes]):
    """The same for bytes."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: bytes | None, dialect: Dialect) -> bytes | None:  # noqa: ARG002
        """On the way in."""
        return None if value is None else seal_bytes(value)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> bytes | None:  # noqa: ARG002
        """On the way out."""
        return None if value is None else unseal_bytes(bytes(value))
