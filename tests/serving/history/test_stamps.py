"""Time stamps by a time-stamping authority, which openssl is here."""

import json
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from fastforget.serving import ArchiveError
from fastforget.serving.history.witness import read_head_proof

pytest.importorskip("rfc3161_client")
pytest.importorskip("cryptography")
from serving.history.test_key_changes import FIRST, SECOND, STRANGER
from serving.history.test_seal import filed, request

from fastforget.serving.history.stamp_order import in_order
from fastforget.serving.history.stamps import Stamp, read_authority

CONFIG = """
[req]
distinguished_name = name
[name]
[root]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign
[stamping]
basicConstraints = CA:false
keyUsage = critical, digitalSignature
extendedKeyUsage = critical, timeStamping
[tsa]
default_tsa = authority
[authority]
serial = serial
crypto_device = builtin
signer_cert = tsa.pem
certs = root.pem
signer_key = tsa.key
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256
accuracy = secs:1
ess_cert_id_alg = sha256
"""


class Authority:
    """A root and a certificate for time stamps under it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder, self.root = folder, folder / "root.pem"
        (folder / "config").write_text(CONFIG)
        (folder / "serial").write_text("01")
        root = "req -x509 -newkey rsa:2048 -nodes -days 9 -subj /CN=root -config config -extensions root"
        self.openssl(*root.split(), "-keyout", "root.key", "-out", "root.pem")
        request = "req -new -newkey rsa:2048 -nodes -subj /CN=tsa -config config -keyout tsa.key -out tsa.csr"
        self.openssl(*request.split())
        signed = "x509 -req -in tsa.csr -CA root.pem -CAkey root.key -CAcreateserial -days 9 -extfile config"
        self.openssl(*signed.split(), "-extensions", "stamping", "-out", "tsa.pem")

    def openssl(self, *arguments: str) -> None:
        try:
            subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True)  # noqa: S603, S607
        except FileNotFoundError:
            pytest.skip("needs openssl")

    def answer(self, query: bytes) -> bytes:
        (self.folder / "query").write_bytes(query)
        asked = ("-queryfile", "query", "-out", "reply")
        self.openssl("ts", "-reply", "-config", "config", "-section", "authority", *asked)
        return (self.folder / "reply").read_bytes()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authorities") / "one")


@pytest.fixture(scope="module")
def another(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authorities") / "another")


def log_of(folder: Path) -> Path:
    return folder / "requests.jsonl"


def asked(folder: Path) -> tuple[Stamp, bytes]:
    return Stamp.asked(read_head_proof(log_of(folder), 0))


def test_a_head_is_stamped(folder: Path, authority: Authority, tmp_path: Path) -> None:
    archive = filed(folder, "a", key=FIRST)
    begun, query = asked(folder)
    trusted = read_authority(authority.root)
    with pytest.raises(ArchiveError, match=r"^the authority must have answered, but there is no reply yet$"):
        begun.check(trusted)
    begun.save(tmp_path / "stamp.json")
    made = Stamp.load(tmp_path / "stamp.json").answered(authority.answer(query), trusted)
    made.save(tmp_path / "stamp.json")
    archive.ask(request("b"))
    again = Stamp.load(tmp_path / "stamp.json")
    assert again == made
    time = again.check(trusted, FIRST.public)
    assert time.tzinfo is timezone.utc
    assert abs(datetime.now(timezone.utc) - time) < timedelta(minutes=5)
    read_head_proof(log_of(folder), again.head.size).check(again.head)
    with pytest.raises(ArchiveError, match="must be signed by the key"):
        again.check(trusted, STRANGER.public)


def test_openssl_reads_the_query_and_checks_the_reply(folder: Path, authority: Authority) -> None:
    filed(folder, "a", key=None)
    begun, query = asked(folder)
    (authority.folder / "head").write_bytes(begun.head.note.encode())
    (authority.folder / "tsr").write_bytes(authority.answer(query))
    authority.openssl("ts", "-verify", "-data", "head", "-in", "tsr", "-CAfile", "root.pem")


def test_a_changed_key_is_followed(folder: Path, authority: Authority, tmp_path: Path) -> None:
    filed(folder, "a", key=FIRST).change_key(SECOND)
    begun, query = asked(folder)
    made = begun.answered(authority.answer(query), trusted := read_authority(authority.root))
    made.save(tmp_path / "stamp.json")
    Stamp.load(tmp_path / "stamp.json").check(trusted, FIRST.public)


WHY = r"^the reply must be a time stamp of this head by this authority: "


def test_wrong_replies(folder: Path, authority: Authority, another: Authority) -> None:
    archive = filed(folder, "a", key=FIRST)
    begun, query = asked(folder)
    trusted, reply = read_authority(authority.root), authority.answer(query)
    cases: dict[str, tuple[Stamp, bytes, list[Any]]] = {
        "another authority": (begun, another.answer(query), trusted),
        "its own certificates": (begun, reply, read_authority(another.root)),
        "no reply": (begun, b"none", trusted),
        "cut off": (begun, reply[:-20], trusted),
        "changed": (begun, reply[:-1] + bytes([reply[-1] ^ 1]), trusted),
        "of another question": (begun, authority.answer(asked(folder)[1]), trusted),
        "a refusal": (begun, authority.answer(b"\x30\x03\x02\x01\x01"), trusted),
    }
    archive.change_key(SECOND)
    later, question = asked(folder)
    cases["another head"] = (begun, authority.answer(question), trusted)
    for name, (stamp, content, roots) in cases.items():
        print(name)
        with pytest.raises(ArchiveError, match=WHY):
            stamp.answered(content, roots)
    assert later.answered(authority.answer(question), trusted).reply
    assert begun.answered(reply, trusted).reply


def test_the_nonce_must_be_that_of_the_question(folder: Path, authority: Authority) -> None:
    filed(folder, "a", key=None)
    (one, question), (two, _) = asked(folder), asked(folder)
    assert one.head == two.head
    with pytest.raises(ArchiveError, match=WHY + "Nonce mismatch"):
        two.answered(authority.answer(question), read_authority(authority.root))


def test_files_that_are_none(folder: Path, authority: Authority, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("none")
    with pytest.raises(ValueError, match=r"must hold certificates in PEM: "):
        read_authority(path)
    with pytest.raises(ValueError, match=r"must hold the root certificate of the authority, which is signed by "):
        read_authority(authority.folder / "tsa.pem")
    with pytest.raises(ArchiveError):
        Stamp.load(path)
    filed(folder, "a", key=None)
    asked(folder)[0].save(path)
    good = json.loads(path.read_text())
    for name, wrong in (("nonce", "-1"), ("nonce", 3), ("reply", "?"), ("reply", None), ("head", "x"), ("keys", [3])):
        path.write_text(json.dumps(good | {name: wrong}))
        with pytest.raises(ArchiveError):
            Stamp.load(path)


def test_certificates_in_an_order_of_their_own(folder: Path, authority: Authority) -> None:
    """As OpenSSL sends them; whatever else comes stays as it is."""
    filed(folder, "a", key=None)
    reply = authority.answer(asked(folder)[1])
    ordered = in_order(reply)
    assert (len(ordered), sorted(ordered)) == (len(reply), sorted(reply))
    assert ordered != reply
    assert in_order(ordered) == ordered
    for other in (b"", b"none", b"\x30", b"\x30\x84", b"\x30\x03\x02\x01\x02", bytes(40), b"\x30\x80" * 20):
        assert in_order(other) == other


def test_without_the_library(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filed(folder, "a", key=None)
    monkeypatch.setitem(sys.modules, "rfc3161_client", None)
    with pytest.raises(ModuleNotFoundError, match=r"^time stamps need rfc3161-client: pip install 'fastforget\[times"):
        asked(folder)
