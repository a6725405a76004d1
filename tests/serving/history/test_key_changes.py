"""Keys that hand over: who knows the first one can check all of it, and none signs beyond its time."""

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from serving.archive_workers import CODES, network

from fastforget.serving import Archive, ArchiveError, LiveModel, RequestLog
from fastforget.serving.history import seal
from fastforget.serving.history.export import exported

pytest.importorskip("cryptography")
from serving.history.test_seal import filed, request, rewritten, signed

from fastforget.files.signing import SigningKey
from fastforget.serving.history.key_changes import KeyChange, check_changes, read_changes, signer_of
from fastforget.serving.history.log_tree import LogTree
from fastforget.serving.history.proofs import HeadProof, RecordProof
from fastforget.serving.history.repair import repair_steps
from fastforget.serving.history.tree_head import TreeHead
from fastforget.serving.history.verification import verify_archive
from fastforget.serving.history.witness import Kept, read_head_proof, witness

FIRST, SECOND, THIRD, STRANGER = (SigningKey.generate() for _ in range(4))


def changed(folder: Path) -> Archive:
    """Signed by the first key, then by the second, then by the third."""
    archive = filed(folder, "a", key=FIRST)
    archive.change_key(SECOND)
    archive.ask(request("b"))
    archive.change_key(THIRD)
    archive.ask(request("c"))
    return archive


def log_of(folder: Path) -> Path:
    return folder / "requests.jsonl"


def tree_of(folder: Path) -> LogTree:
    tree = LogTree(log_of(folder))
    tree.read()
    return tree


def resigned(folder: Path, key: SigningKey) -> None:
    """Sign the log as it is, with whatever key."""
    tree = tree_of(folder)
    signed(folder).write_text(tree.head(len(tree.read())).signed(key).note)


def test_each_key_checks_the_whole_chain_from_its_own_on(folder: Path) -> None:
    changed(folder)
    for key in (None, FIRST.public, SECOND.public, THIRD.public):
        assert verify_archive(folder, key=key) == (6, 0)
    with pytest.raises(ArchiveError, match="must be signed by the key"):
        verify_archive(folder, key=STRANGER.public)
    assert repair_steps(folder) == []
    kinds = [json.loads(line)["fields"].get("kind") for line in log_of(folder).read_text().splitlines()[1:]]
    assert kinds == ["key", "asked", "key", "asked", "key", "asked"]


def test_the_record_says_so_in_words(folder: Path) -> None:
    text = exported(changed(folder).records(), "csv")
    assert (text.count(",signed from here on,"), text.count(",another key signs from here on,")) == (1, 2)


def test_edits_go_on_with_the_new_key_alone(folder: Path) -> None:
    LiveModel(network(), CODES, archive=Archive(folder, key=FIRST)).forget(3)
    Archive(folder, key=FIRST).change_key(SECOND)
    subject = LiveModel(network(), CODES, archive=Archive(folder, key=SECOND))
    assert subject.forget(4).number == 2
    assert verify_archive(folder, key=FIRST.public) == (4, 2)
    text = r"must be signed by the key .* since record 3: the key .* handed over to it$"
    with pytest.raises(ArchiveError, match=text):
        Archive(folder, key=FIRST)
    with pytest.raises(ArchiveError, match="but it names the key"):
        Archive(folder, key=STRANGER)


def test_a_process_that_still_has_the_old_key_writes_nothing(folder: Path) -> None:
    old = filed(folder, "a", key=FIRST)
    Archive(folder, key=FIRST).change_key(SECOND)
    before = log_of(folder).read_bytes()
    with pytest.raises(ArchiveError, match="handed over to it"):
        old.ask(request("b"))
    assert log_of(folder).read_bytes() == before


def test_an_old_key_signs_no_later_head(folder: Path) -> None:
    changed(folder)
    for key in (FIRST, SECOND):
        resigned(folder, key)
        for check in (None, FIRST.public, THIRD.public):
            with pytest.raises(ArchiveError, match="must be signed by the key"):
                verify_archive(folder, key=check)
        with pytest.raises(ArchiveError):
            Archive(folder, key=THIRD)


def test_proofs_are_checked_with_the_first_key_alone(folder: Path, tmp_path: Path) -> None:
    archive = changed(folder)
    proof = archive.proof("a")
    assert proof is not None
    assert proof.public_key == THIRD.public.text
    proof.save(tmp_path / "proof.json")
    again = RecordProof.load(tmp_path / "proof.json")
    assert again == proof
    for key in (FIRST, SECOND, THIRD):
        again.check(key.public)
    with pytest.raises(ArchiveError, match="must be signed by the key"):
        again.check(STRANGER.public)
    with pytest.raises(ArchiveError, match="must be signed by the key"):  # the way from one key to the other is missing
        replace(again, changes=()).check(FIRST.public)


def test_a_proof_from_before_holds_on(folder: Path, tmp_path: Path) -> None:
    """Also one of an older version of this library, which names no changes."""
    archive = filed(folder, "a", key=FIRST)
    proof = archive.proof("a")
    assert proof is not None
    described = proof.describe()
    del described["keys"]
    (tmp_path / "proof.json").write_text(json.dumps(described))
    archive.change_key(SECOND)
    old = RecordProof.load(tmp_path / "proof.json")
    old.check(FIRST.public)
    read_head_proof(log_of(folder), old.head.size).check(old.head)
    with pytest.raises(ArchiveError, match="must be signed by the key"):
        old.check(SECOND.public)


def forged(folder: Path, key: SigningKey, before: SigningKey) -> KeyChange:
    tree = tree_of(folder)
    with closing(RequestLog(log_of(folder))) as log:
        change = KeyChange.made(tree.origin, log.last.number + 1, log.last.hash, key, before)
        return replace(change, previous_key=FIRST.public.text)


@pytest.mark.parametrize("by", ["a stranger", "the old key alone", "nobody"])
def test_a_change_that_the_keys_did_not_sign(folder: Path, by: str) -> None:
    filed(folder, "a", key=FIRST)
    change = forged(folder, SECOND, FIRST if by == "the old key alone" else STRANGER)
    if by == "the old key alone":
        change = replace(change, accepted="")
    if by == "nobody":
        change = replace(change, signature="", accepted="no base64")
    with closing(RequestLog(log_of(folder))) as log:
        log.append(change.fields())
    resigned(folder, SECOND)
    for check in (FIRST.public, SECOND.public, None):
        with pytest.raises(ArchiveError, match="must have signed"):
            verify_archive(folder, key=check)
    with pytest.raises(ArchiveError, match="must have signed"):
        Archive(folder, key=SECOND)


def test_a_change_of_another_log_or_place(folder: Path, tmp_path: Path) -> None:
    filed(folder, "a", key=FIRST).change_key(SECOND)
    change = tree_of(folder).changes[-1]
    origin = tree_of(folder).origin
    check_changes(tree_of(folder).changes, origin)
    for wrong in (
        replace(change, number=7),
        replace(change, previous_hash="0" * 64),
        replace(change, public_key=THIRD.public.text),
    ):
        with pytest.raises(ArchiveError, match=r"must have signed that .* follows it$"):
            wrong.check_handed_over(origin)
    with pytest.raises(ArchiveError):
        change.check_handed_over("fastforget.log/" + "0" * 32)
    with pytest.raises(ArchiveError, match=r"^record 3 must name the key before, "):
        check_changes([replace(tree_of(folder).changes[0], public_key=THIRD.public.text), change], origin)
    assert signer_of([change], FIRST.public, origin, 3) == FIRST.public
    assert signer_of([change], FIRST.public, origin, 4) == SECOND.public


def test_a_log_that_only_names_a_key_is_not_signed(folder: Path, tmp_path: Path) -> None:
    """Else anybody could end a log of their own with the name of a key, and say that it was about to sign."""
    filed(folder, "a", key=None)
    with closing(RequestLog(log_of(folder))) as log:
        log.append({"kind": "key", "public_key": FIRST.public.text})
    for check in (lambda: verify_archive(folder, key=FIRST.public), lambda: Archive(folder, key=FIRST)):
        with pytest.raises(ArchiveError, match=r"must have signed record 2, which names it$"):
            check()


def test_a_log_that_was_computed_anew_before_the_change(folder: Path) -> None:
    changed(folder)

    def other(number: int, fields: dict[str, Any]) -> dict[str, Any]:
        return fields | {"asked_by": "somebody else"} if number == 2 else fields

    rewritten(folder, other)
    resigned(folder, THIRD)  # even so: the record before the change is not the one that the keys signed
    with pytest.raises(ArchiveError, match="must have signed that"):
        verify_archive(folder, key=FIRST.public)


@pytest.mark.parametrize("moment", ["before the head", "after"])
def test_a_process_killed_during_a_change(folder: Path, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record decides: then the new key is needed, and it signs what the old one did not."""
    archive = filed(folder, "a", key=FIRST)
    real: Callable[..., Any] = seal.replace_durably

    def killed(*given: Any) -> None:
        if moment == "after":
            real(*given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(seal, "replace_durably", killed)
        with pytest.raises(KeyboardInterrupt):
            archive.change_key(SECOND)
    assert TreeHead.parse(signed(folder).read_text()).size == (3 if moment == "before the head" else 4)
    assert verify_archive(folder, key=FIRST.public) == verify_archive(folder, key=SECOND.public) == (3, 0)
    with pytest.raises(ArchiveError, match="handed over to it"):
        Archive(folder, key=FIRST)
    filed(folder, "b", key=SECOND)
    assert verify_archive(folder, key=FIRST.public) == (4, 0)


def test_changes_that_are_refused(folder: Path) -> None:
    archive = changed(folder)
    before = log_of(folder).read_bytes()
    for key in (FIRST, SECOND, THIRD):
        with pytest.raises(ValueError, match=r"^the new key must be one that never signed this log, got "):
            archive.change_key(key)
    with pytest.raises(ArchiveError, match=r"must be signed, and the key that signs it given, to change the key$"):
        Archive(folder).change_key(STRANGER)
    assert log_of(folder).read_bytes() == before
    archive.ask(request("d"))
    assert verify_archive(folder, key=FIRST.public) == (7, 0)


def test_the_key_of_an_archive_that_is_not_signed_yet(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="must be signed"):
        Archive(tmp_path / "new", key=FIRST).change_key(SECOND)


def test_a_witness_follows_the_change_and_refuses_the_old_key(folder: Path, tmp_path: Path) -> None:
    keep = tmp_path / "head.json"
    archive = filed(folder, "a", key=FIRST)
    witness(keep, None, read_head_proof(log_of(folder), 0), FIRST.public)
    copy = {name: (folder / name).read_bytes() for name in ("requests.jsonl", "requests.jsonl.head")}
    archive.change_key(SECOND)
    kept = Kept.load(keep)
    assert kept is not None
    described = read_head_proof(log_of(folder), kept.head.size).describe()
    made = witness(keep, kept, HeadProof.parse(json.loads(json.dumps(described))))
    assert made.public_key == SECOND.public.text
    archive.ask(request("b"))
    later = read_head_proof(log_of(folder), made.head.size)
    witness(keep, made, later, FIRST.public)  # who has the first key alone
    with pytest.raises(ArchiveError, match=r"that the witness keeps$"):
        witness(keep, made, later, STRANGER.public)
    with pytest.raises(ArchiveError, match=r"that the witness keeps$"):  # without the change, nothing leads there
        witness(keep, made, replace(later, changes=()), FIRST.public)
    for name, content in copy.items():
        (folder / name).write_bytes(content)
    resigned(folder, FIRST)
    filed(folder, "c", "d", "e", key=FIRST)  # who stole the old key goes on from its time
    with pytest.raises(ArchiveError, match="must be signed by the key"):
        witness(keep, made, read_head_proof(log_of(folder), made.head.size))


@pytest.mark.parametrize(
    "found",
    [{}, ["a"], [{}], [{"number": "1"}], [{**KeyChange(1, "", "").describe(), "number": True}]],
)
def test_changes_in_files_that_are_none(found: Any) -> None:
    with pytest.raises(ArchiveError, match=r"^its field `keys` must "):
        read_changes(found)
    one, two = KeyChange(2, "", "").describe(), KeyChange(1, "", "").describe()
    with pytest.raises(ArchiveError, match=r"order of the records$"):
        read_changes([one, two])
