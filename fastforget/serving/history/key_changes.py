"""Which keys sign a log, one after the other: each hands over to the next one.

The first key names itself in a record. A later one comes in by a record that the key before it signs, and so does the
new one: both for this log, this place in it, and all records before it. So who knows the first public key can follow to
every later one, and a key that handed over can sign nothing that comes after. Signatures need the extra ``signing``.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from fastforget.serving.history.errors import ArchiveError

if TYPE_CHECKING:
    from fastforget.files.signing import PublicKey, SigningKey

__all__ = ["KeyChange", "check_changes", "read_changes", "signer_of"]


@dataclass(frozen=True)
class KeyChange:
    """A record that says by which key a log is signed from there on.

    Attributes:
        number: Of the record: heads of more records than that are signed by the new key.
        previous_hash: Hash of the record before.
        public_key: The new key, base64.
        previous_key: The key that hands over; empty where there was none.
        signature: Of the previous key, base64; empty likewise.
        accepted: Signature of the new key; empty for the first key in logs of older versions.
    """

    number: int
    previous_hash: str
    public_key: str
    previous_key: str = ""
    signature: str = ""
    accepted: str = ""

    @classmethod
    def made(
        cls, origin: str, number: int, previous_hash: str, key: SigningKey, before: SigningKey | None
    ) -> KeyChange:
        """Return a change, signed by both keys.

        Args:
            origin: Name of the log, see `origin_of`.
            number: Of the record that it will be.
            previous_hash: Hash of the record before.
            key: The new key.
            before: The key that hands over; None where there was none.

        Returns:
            The change.
        """
        unsigned = cls(number, previous_hash, key.public.text, "" if before is None else before.public.text)
        message = unsigned.message(origin)
        handed = "" if before is None else _text(before.sign(message))
        return cls(number, previous_hash, unsigned.public_key, unsigned.previous_key, handed, _text(key.sign(message)))

    @classmethod
    def of_record(cls, number: int, previous_hash: str, found: Mapping[str, Any]) -> KeyChange:
        """Return the change that the fields of a record name; not checked yet."""
        names = ("public_key", "previous_key", "signature", "accepted")
        return cls(number, previous_hash, *(str(found.get(name, "")) for name in names))

    def fields(self) -> dict[str, Any]:
        """Return the fields of its record."""
        later = {"previous_key": self.previous_key, "signature": self.signature} if self.previous_key else {}
        return {"kind": "key", "public_key": self.public_key, "accepted": self.accepted, **later}

    def describe(self) -> dict[str, Any]:
        """Return it as JSON knows it."""
        return asdict(self)

    def message(self, origin: str) -> bytes:
        """Return what both keys sign."""
        lines = ("fastforget.key-change", origin, self.number, self.previous_hash, self.previous_key, self.public_key)
        return "".join(f"{line}\n" for line in lines).encode()

    def check_handed_over(self, origin: str) -> None:
        """Check that the previous key handed over to the new one.

        Args:
            origin: Name of the log.

        Raises:
            ArchiveError: It did not, or the record was changed since.
        """
        if not _accepts(self.previous_key, self.signature, self.message(origin)):
            raise ArchiveError(f"the key {self.previous_key} must have signed that {self.public_key} follows it")

    def check_accepted(self, origin: str) -> None:
        """Check that the new key signed the change, and with it all records before.

        Args:
            origin: Name of the log.

        Raises:
            ArchiveError: It did not, or a record was changed since.
        """
        if not _accepts(self.public_key, self.accepted, self.message(origin)):
            raise ArchiveError(f"the key {self.public_key} must have signed record {self.number}, which names it")


def check_changes(changes: Sequence[KeyChange], origin: str) -> None:
    """Check all keys of a log.

    Args:
        changes: In their order.
        origin: Name of the log.

    Raises:
        ArchiveError: One does not follow the one before.
    """
    for earlier, change in pairwise(changes):
        if change.previous_key != earlier.public_key:
            raise ArchiveError(f"record {change.number} must name the key before, {earlier.public_key}")
        change.check_handed_over(origin)
        change.check_accepted(origin)


def signer_of(changes: Sequence[KeyChange], known: PublicKey, origin: str, size: int) -> PublicKey:
    """Follow the changes of a log from a key that is known to the one that must have signed a head.

    Args:
        changes: In their order, from anybody.
        known: The key that is trusted.
        origin: Name of the log.
        size: Number of records of the head.

    Returns:
        The key that must have signed it.

    Raises:
        ArchiveError: A key did not hand over to the one that follows it.
    """
    from fastforget.files.signing import PublicKey  # noqa: PLC0415 (needs the extra "signing")

    signer = known.text
    for change in changes:
        if change.number < size and change.previous_key == signer:
            change.check_handed_over(origin)
            signer = change.public_key
    return PublicKey.from_text(signer)


def read_changes(found: object) -> tuple[KeyChange, ...]:
    """Read what `KeyChange.describe` gave, of several.

    Args:
        found: As JSON gave it; None for none.

    Returns:
        The changes, not checked yet.

    Raises:
        ArchiveError: It is something else.
    """
    kinds = {one.name: int if one.name == "number" else str for one in fields(KeyChange)}
    if found is None:
        return ()
    if not isinstance(found, list) or not all(isinstance(one, dict) and one.keys() == kinds.keys() for one in found):
        raise ArchiveError("its field `keys` must be a list of changes of the key")
    if not all(type(one[name]) is kind for one in found for name, kind in kinds.items()):
        raise ArchiveError("its field `keys` must hold numbers and texts")
    changes = tuple(KeyChange(**one) for one in found)
    numbers = [change.number for change in changes]
    if numbers != sorted(set(numbers)):
        raise ArchiveError("its field `keys` must be in the order of the records")
    return changes


def _accepts(key: str, signature: str, message: bytes) -> bool:
    from fastforget.files.signing import PublicKey  # noqa: PLC0415 (needs the extra "signing")

    try:
        return PublicKey.from_text(key).accepts(base64.b64decode(signature, validate=True), message)
    except (binascii.Error, ValueError):
        return False


def _text(signature: bytes) -> str:
    return base64.b64encode(signature).decode()
