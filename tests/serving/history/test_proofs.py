"""Proofs for people outside: they are right, and every changed bit of them is seen."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving.history.test_seal import KEY, OTHER, changed_reason, filed, request, rewritten

from fastforget.serving import Archive, ArchiveError, read_log
from fastforget.serving.history.log_tree import LogTree
from fastforget.serving.history.proofs import HeadProof, RecordProof
from fastforget.serving.history.proving import prove_record
from fastforget.serving.history.witness import Kept, read_head_proof, witness

NAMES = [f"request {n}" for n in range(9)]


@pytest.mark.parametrize("key", [None, KEY])
def test_whoever_files_can_prove_it(key: Any, folder: Path) -> None:
    archive = filed(folder, *NAMES, key=key)
    for name in NAMES:
        proof = archive.proof(name)
        assert proof is not None
        assert proof.record.fields["request"] == name
        proof.check(key and key.public)
        proof.save(folder / "proof.json")
        assert RecordProof.load(folder / "proof.json") == proof
        assert proof.public_key == (key.public.text if key else "")
    assert archive.proof("another") is None
    assert proof is not None
    with pytest.raises(ArchiveError, match="must be signed by the key" if key else "must be signed, but it is not"):
        proof.check(OTHER.public)


def test_every_record_can_be_proved(folder: Path) -> None:
    log, tree = filed(folder, *NAMES).log, LogTree(folder / "requests.jsonl")
    for record in read_log(log):
        proof = prove_record(log, tree, record)
        proof.check(KEY.public)
        assert RecordProof.load(_written(folder, proof.describe())) == proof


def _written(folder: Path, content: Any) -> Path:
    path = folder / "proof.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_changed_proof_is_refused(folder: Path) -> None:
    """Each leaf of the JSON is given another value."""
    proof = filed(folder, *NAMES).proof(NAMES[3])
    assert proof is not None
    said = proof.describe()

    def changed(value: Any) -> Any:
        if isinstance(value, dict):
            for name in value:
                yield from (value | {name: one} for one in changed(value[name]))
                yield {key: one for key, one in value.items() if key != name}
        elif isinstance(value, list):
            for place, one in enumerate(value):
                yield from ([*value[:place], other, *value[place + 1 :]] for other in changed(one))
            yield value[:-1]
        elif isinstance(value, str):
            yield from (value[::-1] or "x", value + "0", None)
        else:
            yield from (value + 1, None, "3")

    found = list(changed(said))
    assert len(found) > 40
    for one in found:
        try:
            loaded = RecordProof.load(_written(folder, one))
        except ArchiveError:
            continue
        # what stays loads, but is not signed, or only names another key than the one who checks it knows
        # or holds other changes of the key than those that lead there
        assert any(one.get(name) != said[name] for name in ("head", "public_key", "keys"))
        if one["head"] != said["head"]:
            with pytest.raises(ArchiveError):
                loaded.check(KEY.public)


@pytest.mark.parametrize(
    "text", ["", "[]", "[" * 100_000, "{}", '{"format": "fastforget.proof", "version": 2}', "\udcff", " " * (2**22 + 1)]
)
def test_a_file_that_is_no_proof(text: str, tmp_path: Path) -> None:
    path = tmp_path / "proof.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ArchiveError):
        RecordProof.load(path)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_anything_in_the_fields_of_a_proof(drawn: st.DataObject) -> None:
    anything = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=5,
    )
    fields = {name: drawn.draw(anything) for name in ("head", "since", "path", "public_key")}
    with pytest.raises(ArchiveError):
        HeadProof.parse({"format": "fastforget.head", "version": 1, **fields})


def seen(folder: Path, keep: Path, key: Any = None) -> Kept:
    kept = Kept.load(keep)
    found = read_head_proof(folder / "requests.jsonl", kept.head.size if kept else 0)
    return witness(keep, kept, found, key)


@pytest.mark.parametrize("key", [None, KEY])
def test_a_witness_follows_a_log(key: Any, folder: Path, tmp_path: Path) -> None:
    keep, archive = tmp_path / "kept.json", filed(folder, key=key)
    sizes = []
    for name in NAMES:
        archive.ask(request(name))
        assert seen(folder, keep) == Kept.load(keep)
        made = seen(folder, keep)  # nothing new
        sizes.append(made.head.size)
    assert sizes == list(range(2 + bool(key), 11 + bool(key)))
    assert made.public_key == (KEY.public.text if key else "")


def copied(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.glob("requests.jsonl*")}


@pytest.mark.parametrize("key", [None, KEY])
def test_a_witness_refuses_an_older_log(key: Any, folder: Path, tmp_path: Path) -> None:
    keep, archive = tmp_path / "kept.json", filed(folder, "a", key=key)
    old = copied(folder)
    archive.ask(request("b"))
    kept = seen(folder, keep)
    for path, content in old.items():
        path.write_bytes(content)
    with pytest.raises(ArchiveError, match=r"must hold the . records that it held, got .: some were dropped"):
        seen(folder, keep)
    assert Kept.load(keep) == kept
    Archive(folder, key=key).ask(request("c"))  # as large again, with another past
    Archive(folder, key=key).ask(request("d"))
    with pytest.raises(ArchiveError, match="but it does not: records were changed"):
        seen(folder, keep)
    assert Kept.load(keep) == kept
    refused = tmp_path / "kept.json.refused"
    assert refused.exists() == (key is not None)
    if key:  # two signed heads that contradict each other
        assert "\u2014" in json.loads(refused.read_text())["head"]


def test_a_witness_refuses_a_log_that_was_computed_anew(folder: Path, tmp_path: Path) -> None:
    keep = tmp_path / "kept.json"
    filed(folder, "a", "b", "c", key=None)
    seen(folder, keep)
    rewritten(folder, changed_reason)
    with pytest.raises(ArchiveError, match="records were changed"):
        seen(folder, keep)


def test_a_witness_refuses_another_log(folder: Path, tmp_path: Path) -> None:
    keep = tmp_path / "kept.json"
    filed(folder, "a", key=None)
    seen(folder, keep)
    filed(tmp_path / "another", "a", key=None)
    with pytest.raises(ArchiveError, match="another one was put in its place"):
        seen(tmp_path / "another", keep)


def test_a_witness_wants_the_key_that_it_knows(folder: Path, tmp_path: Path) -> None:
    keep = tmp_path / "kept.json"
    filed(folder, "a")
    with pytest.raises(ArchiveError, match="must be signed by the key"):
        seen(folder, keep, OTHER.public)
    assert not keep.exists()
    seen(folder, keep, KEY.public)
    with pytest.raises(ArchiveError, match="that the witness keeps"):
        seen(folder, keep, OTHER.public)
    (folder / "requests.jsonl.signed").unlink()
    with pytest.raises(ArchiveError, match="must be signed, but it is not"):
        seen(folder, keep)


def test_a_witness_can_begin_with_what_was_not_signed(folder: Path, tmp_path: Path) -> None:
    keep = tmp_path / "kept.json"
    filed(folder, "a", key=None)
    seen(folder, keep)
    filed(folder, "b")
    assert seen(folder, keep, KEY.public).public_key == KEY.public.text
    assert seen(folder, keep).public_key == KEY.public.text


def test_the_head_of_no_log(folder: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_head_proof(folder / "requests.jsonl", 0)
    archive = Archive(folder)
    with pytest.raises(ArchiveError, match="must hold 1 records, got 0"):
        archive.head()
    archive.ask(request("a"))
    with pytest.raises(ValueError, match="`since` must not be negative, got -1"):
        archive.head(-1)
    proof = archive.head(99)  # of a log that was once longer
    assert (proof.head.size, proof.path) == (2, ())
