"""What callers send over HTTP, however damaged, is answered or refused by a documented status, and changes nothing."""

import base64
import json
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("fastapi")
pytest.importorskip("jwt")
pytest.importorskip("cryptography")
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from fastapi.testclient import TestClient
from fuzz.damage import damaged
from fuzz.draws import SETTINGS
from fuzz.test_files import EACH, bounded
from serving.archive_workers import CODES, X, network
from serving.test_issuer import AUDIENCE, NAME, RSA, issuer, token, written
from serving.test_issuer import in_set as described

from fastforget.serving import LiveModel
from fastforget.serving.issuer import IssuedTokens
from fastforget.serving.web import application

HERE = "http://127.0.0.1:8000"
REFUSED = {400, 404, 405, 409, 413, 422}
BODIES: dict[str, dict[str, Any]] = {
    "/predict": {"inputs": X.tolist()},
    "/requests": {"classes": [3], "asked_by": "a person", "request": "ticket-17"},
    "/undo/ticket-17": {"asked_by": "a person, by mistake", "also": ["ticket-18"]},
    "/versions/0/revert": {"asked_by": "somebody else"},
}
PATHS = (
    *("/requests/{}", "/proofs/{}", "/export/{}", "/export/csv?request={}"),
    *("/pictures/{}", "/desk?classes={}", "/log/head?since={}"),
)
NAMES = ("ticket-17", "csv", "json", "html", "3", "0", "-1", "1e9", "9" * 30, "..", "%2e%2e%2fcodes", "%00", "%ff", "?")


@pytest.fixture
def live(tmp_path: Path) -> LiveModel:
    """A model of which nobody carries requests out, so that each answer meets the same state."""
    return LiveModel(network(), CODES, archive=tmp_path / "archive")


@pytest.fixture
def web(live: LiveModel) -> TestClient:
    return TestClient(application(live), raise_server_exceptions=True, base_url=HERE)


def check(web: TestClient, answer: Any, good: set[int]) -> None:
    assert answer.status_code in good | REFUSED, answer.text
    if answer.status_code in REFUSED:
        assert answer.json()["detail"]
    right = web.post("/predict", json={"inputs": X.tolist()}).json()
    assert torch.equal(torch.tensor(right["outputs"]), network()(X))


@pytest.mark.parametrize("path", BODIES)
def test_bodies(web: TestClient, live: LiveModel, path: str) -> None:
    @settings(SETTINGS, max_examples=EACH)
    @given(body=damaged(json.dumps(BODIES[path]).encode()) | st.binary(max_size=200))
    def answered(body: bytes) -> None:
        with bounded():
            answer = web.post(path, content=body, headers={"content-type": "application/json"})
        check(web, answer, {200, 202})

    answered()
    assert live.health()["intact"]


def test_paths(web: TestClient) -> None:
    web.post("/requests", json=BODIES["/requests"])

    @settings(SETTINGS, max_examples=EACH)
    @given(path=st.sampled_from(PATHS), name=st.sampled_from(NAMES) | st.text(max_size=300).map(quote))
    def answered(path: str, name: str) -> None:
        with bounded():
            answer = web.get(path.format(name))
        check(web, answer, {200})

    answered()


def signed(header: bytes, claims: bytes) -> str:
    said = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in (header, claims))
    signature = RSA.sign(said, padding.PKCS1v15(), hashes.SHA256())
    return (said + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


def parts(sent: str) -> list[bytes]:
    """Return what a token says: the last character of a part has bits that say nothing."""
    return [base64.urlsafe_b64decode(part + "==") for part in sent.split(".")]


def test_tokens(tmp_path: Path) -> None:
    right = token()
    issued = IssuedTokens(issuer(written(tmp_path / "keys.json", described(RSA, "RS256", kid="first"))), lambda: 0.0)
    assert issued.roles(right)

    @settings(SETTINGS, max_examples=EACH)
    @given(sent=damaged(right.encode()) | st.binary(max_size=200))
    def refused(sent: bytes) -> None:
        changed = sent.decode("latin-1")  # as headers are read
        with bounded():
            roles = issued.roles(changed)
        assert roles is None or parts(changed) == parts(right)

    refused()


@pytest.mark.parametrize("of", ["header", "claims"])
def test_signed_tokens_that_say_something_else(tmp_path: Path, of: str) -> None:
    """Whatever else a key signs, no token lets anybody in that is not for us and for now."""
    issued = IssuedTokens(issuer(written(tmp_path / "keys.json", described(RSA, "RS256", kid="first"))), lambda: 0.0)
    header, claims, _ = parts(token())

    @settings(SETTINGS, max_examples=EACH // 4)  # a signature takes a millisecond
    @given(changed=damaged(header if of == "header" else claims))
    def judged(changed: bytes) -> None:
        both = (changed, claims) if of == "header" else (header, changed)
        with bounded():
            roles = issued.roles(signed(*both))
        if roles:
            said = json.loads(both[1])
            assert said["iss"] == NAME
            assert AUDIENCE in (said["aud"] if isinstance(said["aud"], list) else [said["aud"]])
            assert said.get("nbf", 0) <= time.time() < said["exp"]

    judged()
