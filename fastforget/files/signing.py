"""Ed25519 signatures (RFC 8032): who has the private key signs, everybody who has the public one checks.

Keys are PEM files as OpenSSL writes and reads them. This needs the extra ``signing``.
"""

from __future__ import annotations

import base64
import binascii
import os
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["PublicKey", "SigningKey"]

_BYTES = 32  # of a public key


class PublicKey:
    """Checks signatures.

    Args:
        raw: The key, 32 bytes.

    Raises:
        ModuleNotFoundError: The extra ``signing`` is not installed.
        ValueError: It is no such key.
    """

    def __init__(self, raw: bytes) -> None:
        if len(raw) != _BYTES:
            raise ValueError(f"an Ed25519 key must have {_BYTES} bytes, got {len(raw)}")
        self.raw = raw
        self._key = _ed25519().Ed25519PublicKey.from_public_bytes(raw)

    @classmethod
    def from_text(cls, text: str) -> PublicKey:
        """Return the key that `text` gave.

        Args:
            text: Base64.

        Returns:
            The key.

        Raises:
            ModuleNotFoundError: The extra ``signing`` is not installed.
            ValueError: It is no such key.
        """
        try:
            return cls(base64.b64decode(text, validate=True))
        except (binascii.Error, ValueError) as error:
            raise ValueError(f"a public key must be the base64 text of an Ed25519 key: {error}") from error

    @classmethod
    def load(cls, path: str | PathLike[str]) -> PublicKey:
        """Read a public key.

        Args:
            path: A PEM file, "BEGIN PUBLIC KEY".

        Returns:
            The key.

        Raises:
            ModuleNotFoundError: The extra ``signing`` is not installed.
            OSError: There is no such file.
            ValueError: It holds something else.
        """
        serialization, content = _serialization(), Path(path).read_bytes()
        try:
            key = serialization.load_pem_public_key(content)
        except Exception as error:  # it has errors of its own, too
            raise ValueError(f"`{path}` must be a public key in PEM: {type(error).__name__}") from error
        if not isinstance(key, _ed25519().Ed25519PublicKey):
            raise ValueError(f"`{path}` must be an Ed25519 key, got another kind")  # noqa: TRY004 (the file is at fault)
        return cls(key.public_bytes_raw())

    @property
    def text(self) -> str:
        """The key as base64."""
        return base64.b64encode(self.raw).decode()

    def __eq__(self, other: object) -> bool:
        """Whether it is the same key."""
        return isinstance(other, PublicKey) and self.raw == other.raw

    def __hash__(self) -> int:
        """Hash the key."""
        return hash(self.raw)

    def __repr__(self) -> str:
        """Name the key."""
        return f"PublicKey({self.text})"

    def save(self, path: str | PathLike[str]) -> None:
        """Write a PEM file for everybody; overwritten if it exists."""
        serialization = _serialization()
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        Path(path).write_bytes(self._key.public_bytes(serialization.Encoding.PEM, form))

    def accepts(self, signature: bytes, message: bytes) -> bool:
        """Return whether the holder of the private key signed a message."""
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 (needs the extra "signing")

        try:
            self._key.verify(signature, message)
        except InvalidSignature:
            return False
        return True


class SigningKey:
    """Signs messages; whoever has it can sign in its name, so keep it where others cannot read.

    Args:
        key: Of the library ``cryptography``.

    Attributes:
        public: What checks its signatures.
    """

    def __init__(self, key: Any) -> None:
        self._key = key
        self.public: PublicKey = PublicKey(key.public_key().public_bytes_raw())

    @classmethod
    def generate(cls) -> SigningKey:
        """Return a new key, from the system's random numbers.

        Returns:
            The key.

        Raises:
            ModuleNotFoundError: The extra ``signing`` is not installed.
        """
        return cls(_ed25519().Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: str | PathLike[str]) -> SigningKey:
        """Read a private key.

        Args:
            path: A PEM file without a password, "BEGIN PRIVATE KEY".

        Returns:
            The key.

        Raises:
            ModuleNotFoundError: The extra ``signing`` is not installed.
            OSError: There is no such file.
            ValueError: It holds something else.
        """
        serialization, content = _serialization(), Path(path).read_bytes()
        try:
            key = serialization.load_pem_private_key(content, None)
        except Exception as error:  # noqa: BLE001 (likewise; the text could tell of the key)
            raise ValueError(
                f"`{path}` must be a private key in PEM, without a password: {type(error).__name__}"
            ) from None
        if not isinstance(key, _ed25519().Ed25519PrivateKey):
            raise ValueError(f"`{path}` must be an Ed25519 key, got another kind")  # noqa: TRY004 (the file is at fault)
        return cls(key)

    def save(self, path: str | PathLike[str]) -> None:
        """Write a PEM file that only its owner may read.

        Args:
            path: A new file.

        Raises:
            FileExistsError: There is a file already.
            OSError: It cannot be written.
        """
        serialization = _serialization()
        form, nothing = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        content = self._key.private_bytes(serialization.Encoding.PEM, form, nothing)
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(opened, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def sign(self, message: bytes) -> bytes:
        """Return the signature of a message, 64 bytes."""
        signature: bytes = self._key.sign(message)
        return signature


def _ed25519() -> ModuleType:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415 (needs the extra "signing")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("signatures need cryptography: pip install 'fastforget[signing]'") from error
    return ed25519


def _serialization() -> ModuleType:
    _ed25519()
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 (likewise)

    return serialization
