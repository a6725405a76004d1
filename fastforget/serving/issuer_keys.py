"""The public keys of an issuer of tokens: a JSON Web Key Set (RFC 7517), or one key in PEM."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import IO, Any
from urllib.parse import urlsplit

__all__ = ["ALGORITHMS", "IssuerKey", "import_jwt", "read_keys"]

_OF_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_OF_CURVE = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
ALGORITHMS = (*_OF_RSA, *_OF_CURVE.values(), "EdDSA")

_LARGEST = 2**20  # bytes of a key set
_SECONDS = 10.0  # that its address has to answer
_SHORTEST = 2048  # bits of an RSA key


@dataclass(frozen=True)
class IssuerKey:
    """A key that checks signatures.

    Attributes:
        name: As tokens name it (``kid``); None for one without a name.
        algorithms: For which it is.
        key: Of the library ``cryptography``.
    """

    name: str | None
    algorithms: tuple[str, ...]
    key: Any


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """An address that sends elsewhere is not followed: nobody said that the keys may come from there."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        """Follow nothing."""


def import_jwt() -> ModuleType:
    """Return the module ``jwt``, or raise ModuleNotFoundError that names the extra."""
    try:
        import cryptography  # noqa: F401, PLC0415 (without it, jwt knows no public keys)
        import jwt  # noqa: PLC0415 (needs the extra "jwt")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("tokens of an issuer need PyJWT: pip install 'fastforget[jwt]'") from error
    return jwt


def read_keys(source: str | PathLike[str]) -> tuple[IssuerKey, ...]:
    """Read the public keys of an issuer.

    Args:
        source: A file, or an ``https`` address.

    Returns:
        Those that can check signatures, at least one. Keys of a set that are for something else are left out.

    Raises:
        ModuleNotFoundError: The extra ``jwt`` is not installed.
        OSError: They cannot be read.
        ValueError: There is none, or a key that must be kept secret.
    """
    text = str(source)
    content = _fetch(text) if "://" in text else Path(source).read_bytes()
    if content.lstrip().startswith(b"-----BEGIN"):
        return (_from_pem(text, content),)
    try:
        found = json.loads(content)["keys"]
        described = [dict(one) for one in found]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"`{text}` must be a JSON Web Key Set, or a public key in PEM") from error
    if any(one.get("kty") == "oct" or "d" in one for one in described):
        raise ValueError(f"`{text}` must hold public keys alone, got one that must be kept secret")
    keys = [key for one in described if (key := _from_set(text, one))]
    if not keys:
        raise ValueError(f"`{text}` must hold a key for {', '.join(ALGORITHMS)}, got none")
    return tuple(keys)


def _from_pem(source: str, content: bytes) -> IssuerKey:
    import_jwt()
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415 (needs the extra)

    try:
        key = load_pem_public_key(content)
    except Exception as error:  # it has errors of its own, too
        raise ValueError(f"`{source}` must be a public key in PEM: {type(error).__name__}") from error
    algorithms = _algorithms(source, key)
    if not algorithms:
        raise ValueError(f"`{source}` must hold a key for {', '.join(ALGORITHMS)}, got another kind")
    return IssuerKey(None, algorithms, key)


def _from_set(source: str, described: Mapping[str, Any]) -> IssuerKey | None:
    """Return a key of a set; None for one that is not for signatures, or of a kind that is not known here."""
    jwt = import_jwt()
    if described.get("use", "sig") != "sig":
        return None
    try:
        key = jwt.PyJWK(dict(described)).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    name, only = described.get("kid"), described.get("alg")
    algorithms = tuple(one for one in _algorithms(source, key) if only in (None, one))
    return IssuerKey(None if name is None else str(name), algorithms, key) if algorithms else None


def _algorithms(source: str, key: Any) -> tuple[str, ...]:
    """Return what a key is for."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa  # noqa: PLC0415 (needs the extra "jwt")

    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < _SHORTEST:
            raise ValueError(f"`{source}` must hold RSA keys of at least {_SHORTEST} bits, got {key.key_size}")
        return _OF_RSA
    if isinstance(key, ec.EllipticCurvePublicKey):
        return tuple(algorithm for curve, algorithm in _OF_CURVE.items() if curve == key.curve.name)
    return ("EdDSA",) if isinstance(key, ed25519.Ed25519PublicKey) else ()


def _fetch(url: str) -> bytes:
    """Return what an address answers."""
    if urlsplit(url).scheme != "https" or not urlsplit(url).hostname:
        raise ValueError(f"the address of keys must begin with https://, got {url}")
    try:
        with urllib.request.build_opener(_NoRedirect).open(url, timeout=_SECONDS) as answer:
            content: bytes = answer.read(_LARGEST + 1)
    except urllib.error.HTTPError as error:
        raise OSError(f"{url} must answer with keys, but it answers {error.code}: {error.reason}") from error
    except HTTPException as error:
        raise OSError(f"{url} must answer with keys: {type(error).__name__}") from error
    if len(content) > _LARGEST:
        raise ValueError(f"{url} must answer with at most {_LARGEST} bytes")
    return content
