"""Tokens that an issuer signed: who is let in, and who is not."""

import base64
import hashlib
import hmac
import http.server
import json
import ssl
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from serving.archive_workers import CODES, network

from fastforget.serving import LiveModel

pytest.importorskip("jwt")
pytest.importorskip("fastapi")
import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from serving.test_access import bearer, statuses
from serving.test_web import client

from fastforget.serving.issuer import IssuedTokens, Issuer
from fastforget.serving.issuer_keys import read_keys
from fastforget.serving.web import application

NAME, AUDIENCE = "https://id.example", "forgetting"
RSA, OTHER = (rsa.generate_private_key(65537, 2048) for _ in range(2))
CURVE, EDWARDS = ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()
EVERY = frozenset({"ask", "see", "revert"})


def pem(key: Any) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    made: bytes = key.public_key().public_bytes(serialization.Encoding.PEM, form)
    return made


def in_set(key: Any, algorithm: str, **more: str) -> dict[str, Any]:
    described: dict[str, Any] = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    return described | more


def written(path: Path, *keys: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"keys": keys}))
    return path


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    described = [
        in_set(RSA, "RS256", kid="first", use="sig"),
        in_set(CURVE, "ES256", kid="second"),
        in_set(EDWARDS, "EdDSA", kid="third", alg="EdDSA"),
    ]
    return written(tmp_path / "keys.json", *described, {"kty": "a kind of the future", "kid": "fourth"})


def issuer(keys: Path | str, **settings: Any) -> Issuer:
    return Issuer(NAME, AUDIENCE, keys, **settings)


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    said = {"iss": NAME, "aud": AUDIENCE, "exp": now + 600, "nbf": now - 10, "sub": "a person", "roles": sorted(EVERY)}
    return {name: value for name, value in (said | changes).items() if value is not None}


def token(key: Any = RSA, algorithm: str = "RS256", kid: str | None = "first", **changes: Any) -> str:
    made: str = jwt.encode(claims(**changes), key, algorithm, headers={} if kid is None else {"kid": kid})
    return made


def with_header(header: dict[str, Any], sign: Callable[[bytes], bytes]) -> str:
    """Make a token by hand, as PyJWT would not."""

    def text(value: bytes) -> bytes:
        return base64.urlsafe_b64encode(value).rstrip(b"=")

    content = text(json.dumps(header).encode()) + b"." + text(json.dumps(claims()).encode())
    return (content + b"." + text(sign(content))).decode()


def test_each_kind_of_key(keys: Path, tmp_path: Path) -> None:
    subject = IssuedTokens(issuer(keys))
    assert subject.roles(token()) == EVERY
    assert subject.roles(token(algorithm="PS512")) == EVERY
    assert subject.roles(token(CURVE, "ES256", "second")) == EVERY
    assert subject.roles(token(EDWARDS, "EdDSA", "third")) == EVERY
    assert subject.roles(token(kid=None)) == EVERY
    path = tmp_path / "public.pem"
    path.write_bytes(pem(RSA))
    assert IssuedTokens(issuer(path)).roles(token(kid="of any name")) == EVERY


def test_what_roles_say(keys: Path) -> None:
    subject = IssuedTokens(issuer(keys))
    assert subject.roles(token(roles=["see", "somebody"])) == {"see"}
    assert subject.roles(token(roles="see ask")) == {"see", "ask"}
    for none in (None, [], {}, 7, [["see"]], "seer"):
        assert subject.roles(token(roles=none)) == frozenset()
    named = issuer(keys, claim="realm_access.roles", roles={"see": "officer", "ask": "officer"})
    nested = IssuedTokens(named)
    assert nested.roles(token(realm_access={"roles": ["officer"]})) == {"see", "ask"}
    assert nested.roles(token(**{"realm_access.roles": ["officer"]})) == {"see", "ask"}
    assert nested.roles(token(realm_access="officer")) == frozenset()


def secret_of(public: bytes) -> Callable[[bytes], bytes]:
    return lambda content: hmac.digest(public, content, hashlib.sha256)


WRONG: dict[str, Callable[[], str]] = {
    "signed by nobody": lambda: with_header({"alg": "none", "kid": "first"}, lambda _: b""),
    "signed by nobody, in capitals": lambda: with_header({"alg": "NONE"}, lambda _: b""),
    "the public key as a secret": lambda: with_header({"alg": "HS256", "kid": "first"}, secret_of(pem(RSA))),
    "another key": lambda: token(OTHER),
    "another kind of key": lambda: token(CURVE, "ES256", "first"),
    "an algorithm that this key is not for": lambda: token(CURVE, "ES256", "third"),
    "an unknown key": lambda: token(OTHER, kid="of nobody"),
    "a key of its own": lambda: jwt.encode(
        claims(), OTHER, "RS256", headers={"jwk": in_set(OTHER, "RS256"), "jku": "https://elsewhere.example/keys"}
    ),
    "what it may not ask for": lambda: jwt.encode(claims(), RSA, "RS256", headers={"crit": ["exp"], "kid": "first"}),
    "another issuer": lambda: token(iss="https://elsewhere.example"),
    "no issuer": lambda: token(iss=None),
    "another audience": lambda: token(aud="another service"),
    "no audience": lambda: token(aud=None),
    "expired": lambda: token(exp=int(time.time()) - 60),
    "for ever": lambda: token(exp=None),
    "not yet": lambda: token(nbf=int(time.time()) + 120),
    "issued in the future": lambda: token(iat=int(time.time()) + 120),
    "no times": lambda: token(exp="tomorrow"),
    "too long": lambda: token(more="x" * 20_000),
    "cut off": lambda: token()[:-8],
    "claims changed": lambda: ".".join(
        (token().split(".")[0], token(sub="another").split(".")[1], token().split(".")[2])
    ),
    "no token": lambda: "a.b.c",
    "nothing": lambda: "",
    "not ASCII": lambda: "é.é.é",
    "a header that is a list": lambda: base64.urlsafe_b64encode(b"[]").decode() + ".e30.AA",
}


@pytest.mark.parametrize("wrong", list(WRONG))
def test_wrong_tokens(wrong: str, keys: Path) -> None:
    assert IssuedTokens(issuer(keys)).roles(WRONG[wrong]()) is None


def test_an_algorithm_that_is_not_allowed(keys: Path) -> None:
    subject = IssuedTokens(issuer(keys, algorithms=["ES256"]))
    assert subject.roles(token()) is None
    assert subject.roles(token(CURVE, "ES256", "second")) == EVERY


def test_clocks_may_differ(keys: Path) -> None:
    late = token(exp=int(time.time()) - 10)
    assert IssuedTokens(issuer(keys)).roles(late) == EVERY
    assert IssuedTokens(issuer(keys, leeway=0)).roles(late) is None


def test_keys_that_the_issuer_changed(keys: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They are read again for an unknown name, once in a minute, whatever is sent."""
    now = [0.0]
    subject = IssuedTokens(issuer(keys), lambda: now[0])
    changed = token(OTHER, kid="fifth")
    written(keys, in_set(OTHER, "RS256", kid="fifth"))
    assert subject.roles(changed) is None
    now[0] = 61
    assert subject.roles(changed) == EVERY
    assert subject.roles(token()) is None
    keys.unlink()
    now[0] = 200
    assert subject.roles(token()) is None
    assert "the keys of the issuer cannot be read again" in caplog.text
    assert subject.roles(changed) == EVERY
    keys.write_text("none")
    now[0] = 300
    assert subject.roles(token()) is None
    assert subject.roles(changed) == EVERY


def test_known_keys_wait_for_no_others(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the address of the keys takes to answer about a name that nobody knows."""
    entered, leave, now = threading.Event(), threading.Event(), [0.0]
    subject = IssuedTokens(issuer(keys), lambda: now[0])
    now[0] = 61

    def slow(source: Any) -> Any:
        entered.set()
        assert leave.wait(60)
        return read_keys(source)

    monkeypatch.setattr("fastforget.serving.issuer.read_keys", slow)
    thread = threading.Thread(target=subject.roles, args=(token(OTHER, kid="of nobody"),))
    thread.start()
    assert entered.wait(60)
    assert subject.roles(token()) == EVERY
    leave.set()
    thread.join(60)


def test_keys_that_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    for content in (b"", b"[]", b'{"keys": 3}', b'{"keys": ["a"]}', b"\xff"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"must be a JSON Web Key Set, or a public key in PEM$"):
            read_keys(path)
    private = jwt.get_algorithm_by_name("RS256").to_jwk(RSA, as_dict=True)
    for secret in ({"kty": "oct", "k": "c2VjcmV0"}, private):
        with pytest.raises(ValueError, match=r"must hold public keys alone, got one that must be kept secret$"):
            read_keys(written(path, in_set(CURVE, "ES256"), secret))
    with pytest.raises(ValueError, match=r"must hold a key for RS256, .*, got none$"):
        read_keys(written(path, in_set(RSA, "RS256", use="enc"), in_set(RSA, "RS256", alg="HS256")))
    short = rsa.generate_private_key(65537, 1024)  # noqa: S505 (to be refused)
    with pytest.raises(ValueError, match=r"must hold RSA keys of at least 2048 bits, got 1024$"):
        read_keys(written(path, in_set(short, "RS256")))
    path.write_bytes(b"-----BEGIN PUBLIC KEY-----\n")
    with pytest.raises(ValueError, match="must be a public key in PEM: "):
        read_keys(path)
    path.write_bytes(pem(ec.generate_private_key(ec.SECP256K1())))
    with pytest.raises(ValueError, match=r"got another kind$"):
        read_keys(path)
    with pytest.raises(FileNotFoundError):
        read_keys(tmp_path / "none")
    with pytest.raises(ValueError, match=r"^the address of keys must begin with https://, got http://id.example/keys$"):
        read_keys("http://id.example/keys")


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"algorithms": ["none"]}, ValueError, r"^`algorithms` must be among RS256, .*, got \['none'\]$"),
        ({"algorithms": ["HS256", "RS256"]}, ValueError, r"got \['HS256'\]$"),
        ({"algorithms": []}, ValueError, "got none$"),
        ({"roles": {}}, ValueError, r"^`roles` must say what stands for ask, see or revert, got {}$"),
        ({"roles": {"file": "a"}}, ValueError, "^`roles` must"),
        ({"roles": {"ask": ""}}, ValueError, "^`roles` must"),
        ({"claim": ""}, ValueError, "^`claim` must not be empty$"),
        ({"claim": 3}, TypeError, "^`claim` must be a text, got int$"),
        ({"leeway": -1}, ValueError, "^`leeway` must"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        issuer("keys.json", **settings)


def test_over_http(keys: Path) -> None:
    with client(LiveModel(network(), CODES), issuer=issuer(keys)) as web:
        assert statuses(web, {}) == dict.fromkeys(EVERY, 401)
        assert statuses(web, bearer(token())) == {"ask": 202, "see": 200, "revert": 200}
        assert statuses(web, bearer(token(roles=["see"]))) == {"ask": 403, "see": 200, "revert": 403}
        assert web.get("/requests", headers={"Authorization": f"bearer {token()}"}).status_code == 200
        assert web.get("/requests", headers={"Authorization": f"Basic {token()}"}).status_code == 401
        assert "classes" in web.get("/health", headers=bearer(token(roles=["see"]))).json()
        assert "classes" not in web.get("/health", headers=bearer(token(roles=["ask"]))).json()


def test_beside_secrets_and_roles_that_it_does_not_give(keys: Path) -> None:
    given = issuer(keys, roles={"see": "see"})
    with client(LiveModel(network(), CODES), token={"ask": "a secret to file with"}, issuer=given) as web:  # type: ignore[arg-type]
        assert statuses(web, bearer(token())) == {"ask": 403, "see": 200, "revert": 403}
        assert statuses(web, bearer("a secret to file with")) == {"ask": 202, "see": 401, "revert": 403}


def test_wrong_ones_are_slowed(keys: Path) -> None:
    """Who may come in but may not do this is not: a token of the issuer is no guess."""
    with client(LiveModel(network(), CODES), issuer=issuer(keys)) as web:
        found = [web.get("/requests", headers=bearer(token(roles=[]))).status_code for _ in range(8)]
        assert found == [403] * 8
        found = [web.get("/requests", headers=bearer(token(OTHER))).status_code for _ in range(8)]
        assert found == [401] * 6 + [429] * 2
        assert web.get("/requests", headers=bearer(token())).status_code == 429


def test_keys_are_read_when_the_service_is_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        application(LiveModel(network(), CODES), issuer=issuer(tmp_path / "none"))


class Answers(http.server.BaseHTTPRequestHandler):
    """Answers with keys at /keys, with too much at /much, and sends elsewhere at /moved."""

    keys = b""

    def do_GET(self) -> None:
        if self.path == "/broken":
            self.wfile.write(b"no answer\r\n")
            return
        self.send_response({"/keys": 200, "/much": 200, "/moved": 302}.get(self.path, 404))
        self.send_header("Location", "/keys")
        self.end_headers()
        self.wfile.write({"/keys": Answers.keys, "/much": b" " * (2**20 + 1)}.get(self.path, b""))

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def address(tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An https server, whose certificate is trusted here."""
    made = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    command = ["openssl", *made.split(), "-keyout", str(tmp_path / "tls.key"), "-out", str(tmp_path / "tls.pem")]
    try:
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603
    except FileNotFoundError:
        pytest.skip("needs openssl")
    Answers.keys = keys.read_bytes()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "tls.pem", tmp_path / "tls.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "tls.pem"))
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield f"https://localhost:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_keys_from_an_address(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert IssuedTokens(issuer(f"{address}/keys")).roles(token()) == EVERY
    with pytest.raises(OSError, match=r"must answer with keys, but it answers 302"):
        read_keys(f"{address}/moved")
    with pytest.raises(OSError, match=r"must answer with keys, but it answers 404"):
        read_keys(f"{address}/none")
    with pytest.raises(OSError, match=r"must answer with keys: BadStatusLine$"):
        read_keys(f"{address}/broken")
    with pytest.raises(ValueError, match=r"must answer with at most 1048576 bytes$"):
        read_keys(f"{address}/much")
    monkeypatch.delenv("SSL_CERT_FILE")  # nobody vouches for it then
    with pytest.raises(urllib.request.URLError, match="CERTIFICATE_VERIFY_FAILED"):  # type: ignore[attr-defined, unused-ignore]
        read_keys(f"{address}/keys")
