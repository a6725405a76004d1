"""Whatever stands in tokens, key sets and time stamps of strangers: an error that says so, or nothing."""

import base64
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("jwt")
pytest.importorskip("fastapi")
pytest.importorskip("rfc3161_client")
from serving.history.test_key_changes import FIRST
from serving.test_issuer import RSA, in_set, issuer, written

from fastforget.serving import ArchiveError
from fastforget.serving.history.key_changes import KeyChange, read_changes
from fastforget.serving.history.stamp_order import in_order
from fastforget.serving.history.stamps import Stamp
from fastforget.serving.issuer import IssuedTokens
from fastforget.serving.issuer_keys import IssuerKey, read_keys

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
several = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def part(content: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()


@several
@given(st.dictionaries(st.sampled_from(["alg", "kid", "typ", "b64", "crit"]), ANYTHING), ANYTHING, st.binary())
def test_tokens(tmp_path: Path, header: object, claims: object, signature: bytes) -> None:
    subject = IssuedTokens(issuer(written(tmp_path / "keys.json", in_set(RSA, "RS256", kid="first"))))
    signed = base64.urlsafe_b64encode(signature).decode()
    for token in (f"{part(header)}.{part(claims)}.{signed}", f"{part({'alg': 'RS256'})}.{part(claims)}.{signed}"):
        assert subject.roles(token) is None


@several
@given(st.text())
def test_texts_that_are_no_tokens(tmp_path: Path, text: str) -> None:
    subject = IssuedTokens(issuer(written(tmp_path / "keys.json", in_set(RSA, "RS256", kid="first"))))
    assert subject.roles(text) is None


@several
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["kty", "crv", "n", "e", "x", "y", "k", "use", "alg", "kid"]),
            st.sampled_from(["RSA", "EC", "OKP", "oct", "P-256", "Ed25519", "AQAB", "sig", "RS256"]) | ANYTHING,
        ),
        max_size=3,
    )
    | ANYTHING
)
def test_key_sets(tmp_path: Path, keys: object) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": keys}))
    try:
        found = read_keys(path)
    except ValueError:
        return
    assert all(isinstance(key, IssuerKey) and key.algorithms for key in found)


@several
@given(st.binary(max_size=80))
def test_replies(reply: bytes) -> None:
    assert sorted(in_order(reply)) == sorted(reply)


@several
@given(ANYTHING, ANYTHING, ANYTHING, ANYTHING)
def test_stamps(tmp_path: Path, head: object, nonce: object, reply: object, keys: object) -> None:
    path = tmp_path / "stamp.json"
    fields = {"head": head, "nonce": nonce, "reply": reply, "keys": keys}
    path.write_text(json.dumps({"format": "fastforget.stamp", "version": 1, **fields}))
    with pytest.raises(ArchiveError):
        Stamp.load(path)


@several
@given(st.data())
def test_changes_of_keys(drawn: st.DataObject) -> None:
    right = KeyChange.made("fastforget.log/" + "0" * 32, 3, "0" * 64, FIRST, None).describe()
    name = drawn.draw(st.sampled_from(sorted(right.keys() - {"signature"})))  # nobody handed over to a first key
    changed = right | {name: drawn.draw(ANYTHING)}
    try:
        (found,) = read_changes([changed])
    except ArchiveError:
        return
    if found.describe() != right:
        with pytest.raises(ArchiveError):
            found.check_accepted("fastforget.log/" + "0" * 32)
