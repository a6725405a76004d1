"""Proofs over HTTP, for whoever filed a request and for a witness."""

from pathlib import Path
from typing import Any

import pytest
from serving.archive_workers import CODES, network
from serving.history.archives import until
from serving.over_http import listening

from fastforget.serving import Archive, ArchiveError, LiveModel

pytest.importorskip("fastapi")
pytest.importorskip("cryptography")
import json

from serving.test_web import client, outcome

from fastforget.files.signing import SigningKey
from fastforget.serving.history.proofs import HeadProof, RecordProof
from fastforget.serving.history.witness import ask_service, witness
from fastforget.serving.web import application

KEY = SigningKey.generate()
TOKEN = "a secret of this test"  # noqa: S105


def live(folder: Path) -> LiveModel:
    return LiveModel(network(), CODES, archive=Archive(folder / "archive", key=KEY))


def loaded(proof: Any, folder: Path) -> RecordProof:
    (folder / "proof.json").write_text(json.dumps(proof))
    return RecordProof.load(folder / "proof.json")


def test_whoever_files_takes_a_proof_home(tmp_path: Path) -> None:
    with client(live(tmp_path)) as web:
        asked = web.post("/requests", json={"classes": [3], "asked_by": "a person", "request": "a/b ü"}).json()
        proof = loaded(asked["proof"], tmp_path)
        proof.check(KEY.public)
        assert dict(proof.record.fields) == {
            "kind": "asked",
            "request": "a/b ü",
            "asked_by": "a person",
            "classes": [3],
            "asked": asked["asked"],
        }
        assert outcome(web, "a/b ü")["state"] == "done"
        until(lambda: web.get("/log/head").json()["head"] != proof.head.note)  # the head is signed a moment later
        again = loaded(web.get("/proofs/a/b ü").json(), tmp_path)
        again.check(KEY.public)
        assert again.record == proof.record
        assert again.head.size > proof.head.size
        head = HeadProof.parse(web.get(f"/log/head?since={proof.head.size}").json())
        head.check(proof.head)  # the log continues what was promised
        assert web.get("/proofs/another").status_code == 404
        assert web.get("/log/head?since=-1").status_code == 422


def test_without_an_archive_there_is_no_proof() -> None:
    with client(LiveModel(network(), CODES)) as web:
        asked = web.post("/requests", json={"classes": [3]}).json()
        assert asked["proof"] is None
        assert web.get(f"/proofs/{asked['name']}").status_code == web.get("/log/head").status_code == 404


def test_proofs_need_the_token(tmp_path: Path) -> None:
    with client(live(tmp_path), token=TOKEN) as web:
        right = {"Authorization": f"Bearer {TOKEN}"}
        assert web.post("/requests", json={"classes": [3], "request": "a"}, headers=right).status_code == 202
        for path in ("/proofs/a", "/log/head"):
            assert web.get(path).status_code == 401
            assert web.get(path, headers=right).status_code == 200


def test_a_witness_asks_a_service(tmp_path: Path) -> None:
    subject, keep = live(tmp_path), tmp_path / "kept.json"
    subject.forget(3)
    with listening(application(subject, token=TOKEN, every=0.05)) as (host, port):
        url = f"http://{host}:{port}/"
        kept = witness(keep, None, ask_service(url, 0, TOKEN), KEY.public)
        subject.forget(4)
        later = witness(keep, kept, ask_service(url, kept.head.size, TOKEN))
        assert (kept.head.size, later.head.size) == (3, 4)
        with pytest.raises(OSError, match="must tell the head of its log, but it answers 401"):
            ask_service(url, 0)
        with pytest.raises(ArchiveError, match="must tell the head of its log"):
            ask_service(f"{url}versions?", 0, TOKEN)
    with pytest.raises(OSError, match="refused"):
        ask_service(url, 0, TOKEN)
    for wrong in ("file:///etc/hostname", "http://", "kept"):
        with pytest.raises(ValueError, match="must begin with http:// or https://"):
            ask_service(wrong, 0)
