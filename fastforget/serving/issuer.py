"""Tokens that an issuer signed: JSON Web Tokens (RFC 7519), as providers of OpenID Connect make them.

Who has signed in at the issuer brings such a token; its signature, its times and for whom it was made are checked here,
and a claim in it says what its holder may do. This needs the extra ``jwt``.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

from fastforget.serving.durations import check_seconds
from fastforget.serving.issuer_keys import ALGORITHMS, IssuerKey, import_jwt, read_keys

__all__ = ["IssuedTokens", "Issuer"]

_LOG = logging.getLogger(__name__)
_LONGEST = 16_384  # characters of a token
_AGAIN = 60.0  # seconds before keys are read again for a token that names an unknown one


@dataclass(frozen=True)
class Issuer:
    """Whose signed tokens let callers in, and what they must say.

    Args:
        name: The issuer, as the claim ``iss`` says it.
        audience: For whom its tokens must be made, as the claim ``aud`` says it: this service.
        keys: Its public keys: a file with a JSON Web Key Set or with one key in PEM, or the ``https`` address of a set.
        claim: Where its tokens say what their holders may do: a list, or a text with blanks between. With dots, a
            claim within others, such as ``realm_access.roles``.
        roles: What stands there for each of the roles ``ask``, ``see`` and ``revert``; by default their names. A role
            that is left out is not given by the issuer.
        algorithms: How tokens may be signed. Only signatures with a public key can be: neither ``none`` nor ``HS256``.
        leeway: Seconds by which its clock may differ from ours.

    Raises:
        TypeError: A text is none.
        ValueError: A text is empty, or there is no such algorithm or role.
    """

    name: str
    audience: str
    keys: str | PathLike[str]
    claim: str = "roles"
    roles: Mapping[str, str] = field(default_factory=lambda: {role: role for role in ("ask", "see", "revert")})
    algorithms: Sequence[str] = ALGORITHMS
    leeway: float = 30.0

    def __post_init__(self) -> None:
        """Check what was given."""
        for what in ("name", "audience", "claim"):
            text = getattr(self, what)
            if not isinstance(text, str):
                raise TypeError(f"`{what}` must be a text, got {type(text).__name__}")
            if not text:
                raise ValueError(f"`{what}` must not be empty")
        strange = [one for one in self.algorithms if one not in ALGORITHMS]
        if strange or not self.algorithms:
            raise ValueError(f"`algorithms` must be among {', '.join(ALGORITHMS)}, got {strange or 'none'}")
        if not self.roles or not set(self.roles) <= {"ask", "see", "revert"} or not all(self.roles.values()):
            raise ValueError(f"`roles` must say what stands for ask, see or revert, got {dict(self.roles)}")
        if self.leeway:
            check_seconds("leeway", self.leeway)


class IssuedTokens:
    """Checks the tokens of an issuer.

    Its keys are read here, and again when a token names an unknown one, a minute later at the earliest: so a key that
    the issuer changed is learnt.

    Args:
        issuer: Whose they are.
        clock: Tells the time between two readings of the keys, seconds.

    Raises:
        ModuleNotFoundError: The extra ``jwt`` is not installed.
        OSError: The keys cannot be read.
        ValueError: They are no public keys that could sign.
    """

    def __init__(self, issuer: Issuer, clock: Callable[[], float] = time.monotonic) -> None:
        self._jwt, self._issuer, self._clock = import_jwt(), issuer, clock
        self._keys, self._read = read_keys(issuer.keys), clock()
        self._lock = threading.Lock()

    def roles(self, token: str) -> frozenset[str] | None:
        """Return what the holder of a token may do.

        Args:
            token: As it was sent.

        Returns:
            Roles, perhaps none; None where the token is not one of the issuer's, for us and for now.
        """
        try:
            claims = self._claims(token)
        except (self._jwt.InvalidTokenError, ValueError, TypeError, RecursionError):
            return None
        held = _held(claims, self._issuer.claim)
        return frozenset(role for role, value in self._issuer.roles.items() if value in held)

    def _claims(self, token: str) -> dict[str, Any]:
        if len(token) > _LONGEST:
            raise ValueError("a token must be short")
        header = self._jwt.get_unverified_header(token)
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm not in self._issuer.algorithms or "crit" in header:
            raise ValueError("a token must be signed by an algorithm that is allowed, and ask for nothing else")
        for key in self._fitting(algorithm, kid):
            try:
                claims: dict[str, Any] = self._jwt.decode(
                    token,
                    key.key,
                    algorithms=[algorithm],
                    audience=self._issuer.audience,
                    issuer=self._issuer.name,
                    leeway=self._issuer.leeway,
                    options={"require": ["exp", "iss", "aud"]},
                )
            except self._jwt.InvalidSignatureError:  # another key of the set may fit
                continue
            return claims
        raise ValueError("a token must be signed by a key of the issuer")

    def _fitting(self, algorithm: str, kid: object) -> list[IssuerKey]:
        """Return the keys that may have signed; those of the issuer are read again where there is none."""
        if found := _fitting(self._keys, algorithm, kid):
            return found
        with self._lock:
            if self._clock() - self._read >= _AGAIN:
                self._read = self._clock()
                try:
                    self._keys = read_keys(self._issuer.keys)
                except (OSError, ValueError):  # those that are known go on being right
                    _LOG.exception("the keys of the issuer cannot be read again")
            return _fitting(self._keys, algorithm, kid)


def _fitting(keys: Iterable[IssuerKey], algorithm: str, kid: object) -> list[IssuerKey]:
    """Return the keys for an algorithm, of a name; a key or a token without a name fits any."""
    return [key for key in keys if algorithm in key.algorithms and (None in (kid, key.name) or kid == key.name)]


def _held(claims: Mapping[str, Any], path: str) -> list[str]:
    """Return what a claim holds: under its whole name, or within the claims that its parts name."""
    found: Any = claims.get(path)
    if found is None:
        found = claims
        for part in path.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
    values = found.split() if isinstance(found, str) else found if isinstance(found, list) else []
    return [value for value in values if isinstance(value, str)]
