"""The head of a log's tree: its size and hash, signed or not, in the form that tools of transparency logs read.

A head is a checkpoint of C2SP (tlog-checkpoint) and a signed head is a signed note (signed-note)::

    fastforget.log/4f0c...      the origin: the log's name, from the hash of its first record
    3                           number of records, the first one included
    x1yz...=                    hash of the tree (RFC 9162), base64

    - fastforget.log/4f0c... q8x...=      (with an em dash) key id, 4 bytes, and Ed25519 signature of the lines above
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastforget.serving.history.errors import ArchiveError

if TYPE_CHECKING:
    from fastforget.files.signing import PublicKey, SigningKey

__all__ = ["TreeHead", "origin_of"]

_NOTE = re.compile(
    r"(?P<text>(?P<origin>fastforget\.log/[0-9a-f]{32})\n(?P<size>[1-9][0-9]{0,17})\n(?P<root>[A-Za-z0-9+/]{43}=)\n)"
    r"(?:\n\u2014 (?P<name>fastforget\.log/[0-9a-f]{32}) (?P<signature>[A-Za-z0-9+/]{91}=)\n)?",
    re.ASCII,
)
_KEY_ID = 4  # bytes
_ED25519 = b"\x01"  # the kind of signature


@dataclass(frozen=True)
class TreeHead:
    """Size and hash of the tree of a log's records.

    Attributes:
        origin: Which log, see `origin_of`.
        size: Number of records, with the first one, which says what the file is.
        root: Hash of the tree of their lines, 32 bytes.
        signature: Id of the key and signature; empty where the head is not signed.
    """

    origin: str
    size: int
    root: bytes
    signature: bytes = b""

    @classmethod
    def parse(cls, note: str) -> TreeHead:
        """Read a head.

        Args:
            note: As `note` wrote it.

        Returns:
            The head; nothing says yet that its signature is right.

        Raises:
            ArchiveError: It is none.
        """
        found = _NOTE.fullmatch(note)
        if not found or (found["name"] or found["origin"]) != found["origin"]:
            raise ArchiveError("the head of a log must have three lines, and perhaps a signature after an empty one")
        try:
            root, signature = (base64.b64decode(found[part] or "", validate=True) for part in ("root", "signature"))
        except binascii.Error as error:
            raise ArchiveError(f"the head of a log must hold base64: {error}") from error
        return cls(found["origin"], int(found["size"]), root, signature)

    @property
    def text(self) -> str:
        """What is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    @property
    def note(self) -> str:
        """The text, and the signature if there is one."""
        if not self.signature:
            return self.text
        return f"{self.text}\n\u2014 {self.origin} {base64.b64encode(self.signature).decode()}\n"

    def signed(self, key: SigningKey) -> TreeHead:
        """Return the head with the signature of a key."""
        signature = _key_id(self.origin, key.public) + key.sign(self.text.encode())
        return TreeHead(self.origin, self.size, self.root, signature)

    def check_signature(self, key: PublicKey) -> None:
        """Check that the holder of a key signed the head.

        Args:
            key: The public key.

        Raises:
            ArchiveError: It is not signed, or by somebody else, or was changed since.
        """
        if not self.signature:
            raise ArchiveError(f"the head of {self.size} records of {self.origin} must be signed, but it is not")
        known = self.signature[:_KEY_ID] == _key_id(self.origin, key)
        if not known or not key.accepts(self.signature[_KEY_ID:], self.text.encode()):
            raise ArchiveError(f"the head of {self.size} records of {self.origin} must be signed by the key {key.text}")


def origin_of(first_hash: str) -> str:
    """Return the name of a log: half of the hash of its first record, which holds when the log began."""
    return f"fastforget.log/{first_hash[:32]}"


def _key_id(name: str, key: PublicKey) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + _ED25519 + key.raw).digest()[:_KEY_ID]
