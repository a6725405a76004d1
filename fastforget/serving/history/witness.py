"""A witness: keeps the last head of a log elsewhere, and refuses a log that does not continue it.

Whoever can write the folder of an archive, and even has its key, can compute the log anew or put back an older one. A
witness on another machine sees that. It trusts the first head that it sees.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fastforget.files.durable import whole_files
from fastforget.files.fields import is_text
from fastforget.serving.history.errors import ArchiveError
from fastforget.serving.history.key_changes import signer_of
from fastforget.serving.history.log_tree import LogTree
from fastforget.serving.history.proofs import HeadProof, read_object
from fastforget.serving.history.proving import prove_head
from fastforget.serving.history.tree_head import TreeHead

if TYPE_CHECKING:
    from fastforget.files.signing import PublicKey

__all__ = ["Kept", "ask_service", "read_head_proof", "witness"]

_SECONDS, _LARGEST = 30.0, 2**20  # how long a service may take, and bytes that it may answer


@dataclass(frozen=True)
class Kept:
    """What a witness keeps.

    Attributes:
        head: The last one.
        public_key: Which key signs, base64; empty where none does.
        seen: When, UTC, ISO 8601.
    """

    head: TreeHead
    public_key: str
    seen: str

    @classmethod
    def load(cls, path: Path) -> Kept | None:
        """Read what a witness keeps.

        Args:
            path: Its file.

        Returns:
            What it keeps; None if there is no file yet.

        Raises:
            OSError: It cannot be read.
            ArchiveError: It holds something else.
        """
        if not path.exists():
            return None
        found = read_object(path, "witness", {"head": is_text, "public_key": is_text, "seen": is_text})
        return cls(TreeHead.parse(found["head"]), found["public_key"], found["seen"])

    def save(self, path: Path) -> None:
        """Write the file as a whole, to the disk."""
        _write(path, {"head": self.head.note, "public_key": self.public_key, "seen": self.seen})


def witness(path: Path, kept: Kept | None, found: HeadProof, key: PublicKey | None = None) -> Kept:
    """Compare the head of a log with the one that was kept, and keep it.

    A signed head that does not continue the kept one is written beside it, ``<name>.refused``: the two together show
    that the holder of the key signed two histories.

    Args:
        path: The file of the witness.
        kept: What it keeps; None for the first time.
        found: The head now, with the proof that it continues the kept one.
        key: Who must have signed it, or handed over to who did; by default whoever signed the first one.

    Returns:
        What is kept now.

    Raises:
        OSError: The file cannot be written.
        ArchiveError: The log is another one, a smaller one, has another past, or is not signed by the key.
        ModuleNotFoundError: It is signed, and the extra ``signing`` is not installed.
    """
    signer = _signer(kept, found, key)
    if signer:
        found.head.check_signature(_public_key(signer))
    if kept is not None:
        try:
            found.check(kept.head)
        except ArchiveError:
            if found.head.signature:
                _write(path.with_name(path.name + ".refused"), {"head": found.head.note, "public_key": signer})
            raise
    made = Kept(found.head, signer, datetime.now(timezone.utc).isoformat(timespec="seconds"))
    made.save(path)
    return made


def _signer(kept: Kept | None, found: HeadProof, key: PublicKey | None) -> str:
    """Return the key that must have signed a head, base64; empty where nobody must."""
    trusted = kept.public_key if kept and kept.public_key else key.text if key else "" if kept else found.public_key
    if not trusted:
        return ""
    if kept and key and signer_of(found.changes, key, kept.head.origin, kept.head.size).text != trusted:
        raise ArchiveError(f"the log must be signed by the key {trusted} that the witness keeps")
    return signer_of(found.changes, _public_key(trusted), found.head.origin, found.head.size).text


def read_head_proof(log: Path, since: int) -> HeadProof:
    """Return the head of a log on this machine, with the proof that it continues what it was.

    Args:
        log: The log.
        since: How many records it held.

    Returns:
        The head with the proof.

    Raises:
        OSError: There is no such log.
        ArchiveError: It was changed in itself.
    """
    with log.open("rb"):
        pass  # or the log could be one that has not begun
    return prove_head(log, LogTree(log), since)


def ask_service(url: str, since: int, token: str | None = None) -> HeadProof:
    """Return the head of the log of a service, with the proof that it continues what it was.

    Args:
        url: Of the service, ``http`` or ``https``.
        since: How many records it held.
        token: What lets its callers see requests.

    Returns:
        The head with the proof.

    Raises:
        OSError: The service does not answer.
        ValueError: The address is none.
        ArchiveError: It answers something else.
    """
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise ValueError(f"the address of a service must begin with http:// or https://, got {url}")
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    request = urllib.request.Request(f"{url.rstrip('/')}/log/head?since={since}", headers=headers)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310 (the scheme was checked)
            content = answer.read(_LARGEST)
        return HeadProof.parse(json.loads(content))
    except urllib.error.HTTPError as error:
        raise OSError(f"{url} must tell the head of its log, but it answers {error.code}: {error.reason}") from error
    except (ValueError, RecursionError) as error:
        raise ArchiveError(f"{url} must tell the head of its log: {error}") from error


def _public_key(text: str) -> PublicKey:
    from fastforget.files.signing import PublicKey  # noqa: PLC0415 (needs the extra "signing", for what is signed only)

    return PublicKey.from_text(text)


def _write(path: Path, fields: dict[str, Any]) -> None:
    content = {"format": "fastforget.witness", "version": 1, **fields}
    with whole_files(path) as (draft,):
        draft.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
