"""Prompts, results and what may quote them, at rest: encrypted where a key is configured.

AES-256-GCM, a nonce of its own for each value.

What is stored is `enc1:<the key's name>:<base64 of nonce and ciphertext>`; plain values are read as they are, so that
a key may be introduced, and replaced by another, while old rows stand. The keys are the process', set once at start.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Dialect, LargeBinary, Text
from sqlalchemy.types import TypeDecorator

from app.domain.errors import PenstockError

_MARK = "enc1:"
_BYTES_MARK = b"\x00penstock-enc1:"  # before bytes; no text, and so no JSON line, begins so
_NONCE = 12  # bytes


class Unsealable(PenstockError):
    """A value was encrypted by a key that is not configured here, or was changed. Its words hold no secret."""


class Vault:
    """Keys: the first one seals, all open."""

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
                f"{', '.join(sorted(self._keys))}): put the reference of its secret into [storage] previous_keys"
            )
        try:
            return bytes(key.decrypt(sealed[:_NONCE], sealed[_NONCE:], name.encode()))
        except Exception as error:
            raise Unsealable("encrypted content was changed, or cut off") from error


_vault: Vault | None = None


def use_vault(vault: Vault | None) -> None:
    """Encrypt from here on, in this process; None: no more."""
    global _vault  # noqa: PLW0603 - columns know no process but this one
    _vault = vault


def seal(text: str) -> str:
    """Content as it is stored."""
    return text if _vault is None else _vault.seal(text)


def unseal(stored: str) -> str:
    """Content as it was given. Raises Unsealable."""
    if not stored.startswith(_MARK):
        return stored
    return _opener(stored.split(":", 2)[1]).unseal(stored)


def _opener(name: str) -> Vault:
    if _vault is None:
        raise Unsealable(
            f"content was encrypted by the key {name}, and no key is configured in this process: put the reference "
            "of its secret into [storage] encryption_key"
        )
    return _vault


class Sealed(TypeDecorator[str]):
    """A text column whose values are encrypted on their way in, where a key is configured."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        """On the way in."""
        return None if value is None else seal(value)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        """On the way out."""
        return None if value is None else unseal(value)


class SealedBytes(TypeDecorator[bytes]):
    """The same for bytes."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: bytes | None, dialect: Dialect) -> bytes | None:  # noqa: ARG002
        """On the way in."""
        return value if value is None or _vault is None else _vault.seal_bytes(value)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> bytes | None:  # noqa: ARG002
        """On the way out."""
        if value is None or not bytes(value).startswith(_BYTES_MARK):
            return value
        name = bytes(value[:64]).removeprefix(_BYTES_MARK).partition(b":")[0].decode(errors="replace")
        return _opener(name).unseal_bytes(bytes(value))
