"""Signatures in files: who signed a content, and the check of it.

What is signed names the kind of the file, so that a signature of one kind does not fit another.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastforget.files.signing import PublicKey, SigningKey

__all__ = ["check_signature", "signature_of"]


def signature_of(kind: str, content: str, key: SigningKey | None) -> dict[str, str]:
    """Sign a content.

    Args:
        kind: Of the file.
        content: What is signed: a text, or its checksum.
        key: What signs; None for nobody.

    Returns:
        ``public_key`` and ``signature``, base64; nothing without a key.
    """
    if key is None:
        return {}
    signature = key.sign(_message(kind, content))
    return {"public_key": key.public.text, "signature": base64.b64encode(signature).decode()}


def check_signature(kind: str, content: str, found: Mapping[str, object], key: PublicKey | None) -> None:
    """Check who signed a content. A signature is always checked; without a key it shows no more than a checksum.

    Args:
        kind: Of the file.
        content: What is signed.
        found: What `signature_of` returned.
        key: Who must have signed it; None for anybody or nobody.

    Raises:
        ModuleNotFoundError: It is signed, and the extra ``signing`` is not installed.
        ValueError: It is not signed, by somebody else, or was changed.
    """
    named, signature = found.get("public_key"), found.get("signature")
    if named is None and signature is None:
        if key is not None:
            raise ValueError(f"it must be signed by the key {key.text}, but it is not signed")
        return
    from fastforget.files.signing import PublicKey  # noqa: PLC0415 (needs the extra "signing", for what is signed only)

    signer = PublicKey.from_text(str(named))
    if key is not None and signer != key:
        raise ValueError(f"it must be signed by the key {key.text}, got {signer.text}")
    try:
        accepted = signer.accepts(base64.b64decode(str(signature), validate=True), _message(kind, content))
    except (binascii.Error, ValueError):
        accepted = False
    if not accepted:
        raise ValueError(f"it was changed after the key {signer.text} signed it")


def _message(kind: str, content: str) -> bytes:
    return f"fastforget.{kind}\n{content}".encode()
