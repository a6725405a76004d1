"""The signed head of an archive: nobody without the key can change the log unseen, and nothing is lost by crashes."""

import base64
import hashlib
import json
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from serving.archive_workers import CODES, network

from fastforget.serving import Archive, ArchiveError, LiveModel, Request, RequestLog
from fastforget.serving.history import records, seal

pytest.importorskip("cryptography")
from fastforget.files.signing import PublicKey, SigningKey
from fastforget.serving.history.log_tree import LogTree
from fastforget.serving.history.merkle import MerkleTree, leaf_hash
from fastforget.serving.history.tree_head import TreeHead
from fastforget.serving.history.verification import verify_archive

KEY, OTHER = SigningKey.generate(), SigningKey.generate()


def request(name: str) -> Request:
    return Request(name, (3,), "a person", "2026-01-01T00:00:00+00:00")


def filed(folder: Path, *names: str, key: SigningKey | None = KEY) -> Archive:
    archive = Archive(folder, key=key)
    for name in names:
        archive.ask(request(name))
    return archive


def signed(folder: Path) -> Path:
    return folder / "requests.jsonl.signed"


def test_each_record_is_signed(folder: Path) -> None:
    """As everybody can check who knows RFC 9162, RFC 8032 and the form of notes."""
    archive = filed(folder, "a", "b")
    tree = MerkleTree()
    for line in (folder / "requests.jsonl").read_bytes().splitlines():
        tree.append(leaf_hash(line))
    text, _, signature = signed(folder).read_text().rpartition("\n\u2014 ")
    origin, size, root = text.splitlines()
    name, _, value = signature.strip().partition(" ")
    first = json.loads((folder / "requests.jsonl").read_text().splitlines()[0])
    assert origin == name == f"fastforget.log/{first['hash'][:32]}"
    assert (int(size), base64.b64decode(root)) == (4, tree.root(4))  # the first record, that of the key, two requests
    public, raw = KEY.public, base64.b64decode(value)
    assert raw[:4] == hashlib.sha256(f"{origin}\n\x01".encode() + public.raw).digest()[:4]
    assert public.accepts(raw[4:], text.encode())
    assert not OTHER.public.accepts(raw[4:], text.encode())
    assert [one.name for one in archive.requests()] == ["a", "b"]
    assert signed(folder).stat().st_mode & 0o777 == 0o600


def test_edits_of_a_live_model_are_signed(folder: Path) -> None:
    subject = LiveModel(network(), CODES, archive=Archive(folder, key=KEY))
    subject.forget(3)
    subject.revert(0)
    assert verify_archive(folder, key=KEY.public) == (3, 2)
    again = LiveModel(network(), CODES, archive=Archive(folder, key=KEY))
    assert again.version.number == 2
    reader = LiveModel(network(), CODES, archive=folder)  # without the key: reads, and does not write
    assert reader.version.number == 2
    with pytest.raises(ArchiveError, match=r"^records of .* are signed: give the key whose public part is "):
        reader.forget(4)
    assert reader.health()["intact"]
    assert verify_archive(folder) == (3, 2)


def test_another_key_is_refused(folder: Path) -> None:
    filed(folder, "a")
    with pytest.raises(ArchiveError, match=r"must be signed by the key .*, but it names the key "):
        Archive(folder, key=OTHER)
    with pytest.raises(ArchiveError, match=r"must be signed by the key"):
        verify_archive(folder, key=OTHER.public)


def test_a_log_that_was_begun_without_a_key_is_signed_from_then_on(folder: Path) -> None:
    filed(folder, "a", key=None)
    with pytest.raises(ArchiveError, match="but it names no key"):
        verify_archive(folder, key=KEY.public)
    filed(folder, "b")
    assert verify_archive(folder, key=KEY.public) == (3, 0)
    assert TreeHead.parse(signed(folder).read_text()).size == 4


def rewritten(folder: Path, change: Any) -> None:
    """Compute the log anew, as somebody can who has the folder and not the key."""
    path = folder / "requests.jsonl"
    fields = [change(one["number"], one["fields"]) for one in map(json.loads, path.read_text().splitlines())]
    previous, lines = "0" * 64, []
    for number, (one, old) in enumerate(zip(fields, map(json.loads, path.read_text().splitlines()), strict=True)):
        made = records.make_record(number, one, previous, old["time"])
        previous = made.hash
        lines.append(made.line())
    path.write_bytes(b"".join(lines))
    (folder / "requests.jsonl.head").write_text(records.canonical({"number": len(lines) - 1, "hash": previous}) + "\n")


def changed_reason(number: int, fields: dict[str, Any]) -> dict[str, Any]:
    return fields | {"asked_by": "somebody else"} if number == 2 else fields


def test_a_log_that_was_computed_anew(folder: Path) -> None:
    filed(folder, "a", "b")
    rewritten(folder, changed_reason)
    assert len(Archive(folder).requests()) == 2  # its hashes fit
    text = "must be the log that was signed: a record below 4 was changed"
    for check in (lambda: Archive(folder, key=KEY), lambda: verify_archive(folder)):
        with pytest.raises(ArchiveError, match=text):
            check()


def test_a_service_does_not_sign_what_was_computed_anew(folder: Path) -> None:
    archive = filed(folder, "a", "b")
    rewritten(folder, changed_reason)
    before = signed(folder).read_text()
    with pytest.raises(ArchiveError):
        archive.ask(request("c"))
    assert signed(folder).read_text() == before


def appended(folder: Path, count: int) -> None:
    with closing(RequestLog(folder / "requests.jsonl")) as log:
        for number in range(count):
            log.append({"kind": "asked", "request": f"forged {number}", "asked_by": "", "classes": [1], "asked": ""})


def test_what_was_appended_without_the_key(folder: Path) -> None:
    """One record may have been written by a process that was killed before it signed."""
    filed(folder, "a")
    appended(folder, 1)
    assert verify_archive(folder, key=KEY.public) == (3, 0)
    appended(folder, 1)
    for check in (lambda: Archive(folder, key=KEY), lambda: verify_archive(folder)):
        with pytest.raises(ArchiveError, match=r"must be signed up to its end, but records from number 3 on are not"):
            check()


@pytest.mark.parametrize(
    ("note", "text"),
    [
        (None, "must be there: the records of .* are signed since record 1"),
        ("", "must have three lines"),
        ("\udcff", "is not usable"),
        ("unsigned", "must be signed, but it is not"),
        ("other key", "must be signed by the key"),
        ("changed", "must be signed by the key"),
        ("larger", "must hold the 9 records that were signed, got 3"),
    ],
)
def test_a_signed_head_that_is_not_right(note: str | None, text: str, folder: Path) -> None:
    filed(folder, "a")
    head = TreeHead.parse(signed(folder).read_text())
    bare = TreeHead(head.origin, head.size, head.root)
    made = {
        "unsigned": bare.note,
        "other key": bare.signed(OTHER).note,
        "changed": TreeHead(head.origin, 2, head.root, head.signature).note,
        "larger": TreeHead(head.origin, 9, head.root).signed(KEY).note,
    }
    signed(folder).unlink()
    if note is not None:
        signed(folder).write_bytes(made.get(note, note).encode("utf-8", "surrogateescape"))
    for check in (lambda: Archive(folder, key=KEY), lambda: verify_archive(folder)):
        with pytest.raises(ArchiveError, match=text):
            check()


@pytest.mark.parametrize("place", range(1, 12))
def test_a_fault_at_any_step(place: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was written is signed by the next process, and all that was acknowledged is there."""
    archive, calls, real, acknowledged = filed(folder, "a"), [0], os.fsync, ["a"]

    def failing(file: int) -> None:
        calls[0] += 1
        if calls[0] == place:
            raise OSError("fault")
        real(file)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", failing)
        for name in ("b", "c"):
            try:
                archive.ask(request(name))
            except OSError:
                continue
            acknowledged.append(name)
    found = [one.name for one in filed(folder, "d").requests()]
    assert set(acknowledged) | {"d"} <= set(found)
    assert verify_archive(folder, key=KEY.public) == (len(found) + 1, 0)
    assert TreeHead.parse(signed(folder).read_text()).size == len(found) + 2
    assert not list(folder.glob("*.unfinished"))


def test_a_second_key_in_the_log_is_refused(folder: Path) -> None:
    filed(folder, "a")
    with closing(RequestLog(folder / "requests.jsonl")) as log:
        log.append({"kind": "key", "public_key": OTHER.public.text})
    with pytest.raises(ArchiveError, match="must say that the key that signs it hands over"):
        Archive(folder, key=OTHER)


def test_without_the_library_only_signatures_are_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    filed(folder, "a")
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric", None)
    assert [one.name for one in Archive(folder).requests()] == ["a"]
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'fastforget\[signing\]'"):
        verify_archive(folder)


def test_reading_the_tree_costs_constant_work_for_each_record(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastforget.serving.history import log_tree

    read = []
    real = log_tree.leaf_of
    monkeypatch.setattr(log_tree, "leaf_of", lambda record: read.append(record.number) or real(record))
    archive = filed(folder, *(f"{n}" for n in range(20)))
    archive.proof("3"), archive.head(7)
    assert read == list(range(22))


def test_keys_in_files(tmp_path: Path) -> None:
    KEY.save(tmp_path / "key.pem")
    KEY.public.save(tmp_path / "public.pem")
    assert (tmp_path / "key.pem").stat().st_mode & 0o777 == 0o600
    again = SigningKey.load(tmp_path / "key.pem")
    assert again.public == KEY.public == PublicKey.load(tmp_path / "public.pem") == PublicKey.from_text(KEY.public.text)
    assert KEY.public.accepts(again.sign(b"message"), b"message")
    assert not KEY.public.accepts(again.sign(b"message"), b"another")
    assert str(KEY.public) == f"PublicKey({KEY.public.text})"
    with pytest.raises(FileExistsError):
        OTHER.save(tmp_path / "key.pem")
    for load, name, text in (
        (SigningKey.load, "public.pem", "must be a private key in PEM"),
        (PublicKey.load, "key.pem", "must be a public key in PEM"),
    ):
        with pytest.raises(ValueError, match=text):
            load(tmp_path / name)
    with pytest.raises(ValueError, match="must be the base64 text of an Ed25519 key"):
        PublicKey.from_text("AAAA")


def test_keys_of_another_kind(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, pem = ec.generate_private_key(ec.SECP256R1()), serialization.Encoding.PEM
    nothing = serialization.NoEncryption()
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, nothing)
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "private.pem").write_bytes(private)
    (tmp_path / "public.pem").write_bytes(public)
    for load, name in ((SigningKey.load, "private.pem"), (PublicKey.load, "public.pem")):
        with pytest.raises(ValueError, match="must be an Ed25519 key, got another kind"):
            load(tmp_path / name)


def test_the_tree_of_a_log_that_is_none(folder: Path) -> None:
    folder.mkdir()
    (folder / "requests.jsonl").write_text("none\n")
    with pytest.raises(ArchiveError):
        LogTree(folder / "requests.jsonl").read()
    assert seal.read_signed(folder / "requests.jsonl") is None
