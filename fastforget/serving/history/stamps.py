"""Time stamps of a third party (RFC 3161) over the head of a log: it was there at that time, and not made up later.

A time-stamping authority signs a hash and its own time. It is asked with a file, and answers with one: how these travel
is left to the operator, so that no network is needed here. This needs the extra ``timestamps``.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from fastforget.files.durable import whole_files
from fastforget.files.fields import is_text
from fastforget.serving.history.errors import ArchiveError
from fastforget.serving.history.key_changes import KeyChange, read_changes, signer_of
from fastforget.serving.history.proofs import HeadProof, read_object
from fastforget.serving.history.stamp_order import in_order
from fastforget.serving.history.tree_head import TreeHead

if TYPE_CHECKING:
    from fastforget.files.signing import PublicKey

__all__ = ["Stamp", "read_authority"]


@dataclass(frozen=True)
class Stamp:
    """A head of a log, and what an authority says of it.

    Attributes:
        head: The head, with its signature if it is signed.
        nonce: A number that the answer must repeat.
        reply: What the authority answered, DER; empty before.
        changes: The keys that signed the log up to there.
    """

    head: TreeHead
    nonce: int
    reply: bytes = b""
    changes: tuple[KeyChange, ...] = ()

    @classmethod
    def asked(cls, found: HeadProof) -> tuple[Stamp, bytes]:
        """Begin a time stamp of a head.

        Args:
            found: The head.

        Returns:
            The stamp without a reply, and what to send to the authority, DER (``application/timestamp-query``).

        Raises:
            ModuleNotFoundError: The extra ``timestamps`` is not installed.
        """
        library = _library()
        builder = library.TimestampRequestBuilder(data=found.head.note.encode(), nonce=True, cert_req=True)
        query = builder.hash_algorithm(library.HashAlgorithm.SHA256).build()
        content: bytes = query.as_bytes()
        return cls(found.head, query.nonce, changes=found.changes), content

    def answered(self, reply: bytes, authority: list[Any]) -> Stamp:
        """Return the stamp with a reply, which was checked.

        Args:
            reply: What the authority answered, DER (``application/timestamp-reply``).
            authority: Its certificates, see `read_authority`.

        Returns:
            The stamp.

        Raises:
            ArchiveError: It is not a time stamp of this head by this authority.
        """
        made = replace(self, reply=reply)
        made.check(authority)
        return made

    def check(self, authority: list[Any], key: PublicKey | None = None) -> datetime:
        """Check the stamp.

        Args:
            authority: Its certificates.
            key: Who must have signed the head, or handed over to who did. Without, its signature is not checked.

        Returns:
            When the head was there, UTC, as the authority says.

        Raises:
            ArchiveError: There is no reply, or it is not a time stamp of this head by this authority.
            ModuleNotFoundError: The extra ``timestamps`` is not installed.
        """
        library = _library()
        if not self.reply:
            raise ArchiveError("the authority must have answered, but there is no reply yet")
        if key is not None:
            self.head.check_signature(signer_of(self.changes, key, self.head.origin, self.head.size))
        roots = [one for one in authority if one.issuer == one.subject]
        builder = library.VerifierBuilder(
            roots=roots, intermediates=[one for one in authority if one not in roots], nonce=self.nonce
        )
        try:
            reply = library.decode_timestamp_response(in_order(self.reply))
            builder.build().verify_message(reply, self.head.note.encode())
            time: datetime = reply.tst_info.gen_time
        except Exception as error:  # it has errors of its own, too
            raise ArchiveError(f"the reply must be a time stamp of this head by this authority: {error}") from error
        return time.replace(tzinfo=timezone.utc) if time.tzinfo is None else time.astimezone(timezone.utc)

    def save(self, path: str | PathLike[str]) -> None:
        """Write it as JSON.

        Args:
            path: The file; overwritten if it exists.
        """
        content = {
            "format": "fastforget.stamp",
            "version": 1,
            "head": self.head.note,
            "nonce": str(self.nonce),
            "reply": base64.b64encode(self.reply).decode(),
            "keys": [change.describe() for change in self.changes],
        }
        with whole_files(path) as (draft,):
            draft.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Stamp:
        """Read a stamp; nothing of it is checked yet.

        Args:
            path: The file.

        Returns:
            The stamp.

        Raises:
            OSError: There is no such file.
            ArchiveError: It is something else.
        """
        found = read_object(path, "stamp", {"head": is_text, "nonce": _is_number, "reply": is_text, "keys": _is_list})
        try:
            reply = base64.b64decode(found["reply"], validate=True)
            return cls(TreeHead.parse(found["head"]), int(found["nonce"]), reply, read_changes(found["keys"]))
        except (binascii.Error, ValueError) as error:
            raise ArchiveError(f"`{path}` is not a usable time stamp: {error}") from error


def read_authority(path: str | PathLike[str]) -> list[Any]:
    """Read the certificates of an authority.

    Args:
        path: A PEM file; at least one certificate is a root, signed by itself.

    Returns:
        Them, of the library ``cryptography``.

    Raises:
        ModuleNotFoundError: The extra ``timestamps`` is not installed.
        OSError: There is no such file.
        ValueError: There is no root among them.
    """
    _library()
    from cryptography.x509 import load_pem_x509_certificates  # noqa: PLC0415 (needs the extra "timestamps")

    content = Path(path).read_bytes()
    try:
        found = load_pem_x509_certificates(content)
    except Exception as error:  # it has errors of its own, too
        raise ValueError(f"`{path}` must hold certificates in PEM: {type(error).__name__}") from error
    if not any(one.issuer == one.subject for one in found):
        raise ValueError(f"`{path}` must hold the root certificate of the authority, which is signed by itself")
    return list(found)


def _is_number(value: object) -> bool:
    return isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 100


def _is_list(value: object) -> bool:
    return isinstance(value, list)


def _library() -> ModuleType:
    try:
        import rfc3161_client  # noqa: PLC0415 (needs the extra "timestamps")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("time stamps need rfc3161-client: pip install 'fastforget[timestamps]'") from error
    return rfc3161_client
