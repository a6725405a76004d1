"""`fastforget keys`, and `fastforget log prove`, `check`, `witness` and `export`."""

import json
import subprocess
from pathlib import Path

import pytest
from cli.command_line import CommandLine

from fastforget.serving import Archive, Request

pytest.importorskip("cryptography")
from fastforget.files.signing import SigningKey

PUBLIC = ("--public-key", "public.pem")


@pytest.fixture
def archive(fastforget: CommandLine, folder: Path) -> Archive:
    fastforget.output("keys", "--output", "private.pem", "--public", "public.pem")
    archive = Archive("kept", key=SigningKey.load("private.pem"))
    for name in ("a", "b", "c"):
        archive.ask(Request(name, (1,), "a person", "2026-01-01T00:00:00+00:00"))
    return archive


def test_keys(fastforget: CommandLine, folder: Path) -> None:
    said = json.loads(fastforget.output("keys", "--output", "private.pem", "--public", "public.pem", "--json"))
    assert SigningKey.load("private.pem").public.text == said["public_key"]
    line = fastforget.error_line("keys", "--output", "private.pem", "--public", "another.pem")
    assert line.startswith("`--output` must be a new file")


def test_openssl_reads_the_keys_and_checks_the_head(archive: Archive) -> None:
    note = Path("kept/requests.jsonl.signed").read_text()
    text, _, signature = note.partition("\n\n")
    Path("text").write_text(text + "\n")
    import base64

    Path("signature").write_bytes(base64.b64decode(signature.split()[-1])[4:])
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "public.pem", "-rawin", "-in", "text"]
    try:
        done = subprocess.run([*command, "-sigfile", "signature"], capture_output=True, text=True, check=False)  # noqa: S603
    except FileNotFoundError:
        pytest.skip("needs openssl")
    assert "Signature Verified Successfully" in done.stdout, done.stderr


def test_a_proof_is_made_and_checked(archive: Archive, fastforget: CommandLine) -> None:
    printed = fastforget.output("log", "prove", "kept", "--request", "b", "--output", "proof.json")
    assert printed.startswith("record 3 is in kept/requests.jsonl, signed by ")
    assert "signed by that key; kept/requests.jsonl continues it" in fastforget.output(
        "log", "check", "proof.json", "--log", "kept", *PUBLIC
    )
    said = json.loads(fastforget.output("log", "check", "proof.json", "--json"))
    assert (said["record"], said["signature_checked"]) == (3, False)
    by_number = ("log", "prove", "kept", "--record", "3", "--output", "another.json")
    fastforget.output(*by_number)
    assert Path("another.json").read_text() == Path("proof.json").read_text()
    assert "which exists" in fastforget.error_line(*by_number)
    fastforget.output("keys", "--output", "private2.pem", "--public", "public2.pem")
    line = fastforget.error_line("log", "check", "proof.json", "--public-key", "public2.pem")
    assert "must be signed by the key" in line
    Path("proof.json").write_text(Path("proof.json").read_text().replace("a person", "nobody"))
    assert "its hash does not fit" in fastforget.error_line("log", "check", "proof.json")
    assert "`request` must be the name" in fastforget.error_line(
        "log", "prove", "kept", "--request", "z", "--output", "x.json"
    )
    assert "0 to 4, got 9" in fastforget.error_line("log", "prove", "kept", "--record", "9", "--output", "x.json")
    assert fastforget("log", "prove", "kept", "--output", "x.json").status == 2


def test_a_witness(archive: Archive, fastforget: CommandLine) -> None:
    printed = fastforget.output("log", "witness", "kept", "--keep", "head.json", *PUBLIC)
    assert printed.startswith("kept: 5 records, signed by ")
    archive.ask(Request("d", (1,), "", "2026-01-01T00:00:00+00:00"))
    said = json.loads(fastforget.output("log", "witness", "kept", "--keep", "head.json", "--json"))
    assert (said["size"], said["since"]) == (6, 5)
    Archive("other", key=SigningKey.load("private.pem")).ask(Request("a", (1,), "", "2026-01-01T00:00:00+00:00"))
    before = Path("head.json").read_bytes()
    outcome = fastforget("log", "witness", "other", "--keep", "head.json")
    assert (outcome.status, "another one was put in its place" in outcome.err) == (1, True)
    assert Path("head.json").read_bytes() == before
    assert Path("head.json.refused").exists()
    assert "none.jsonl" in fastforget.error_line("log", "witness", "none.jsonl", "--keep", "new.json")


def test_verify_says_whether_the_log_is_signed(archive: Archive, fastforget: CommandLine) -> None:
    assert "; signed;" in fastforget.output("log", "verify", "kept")
    assert "; signed by that key;" in fastforget.output("log", "verify", "kept", *PUBLIC)
    assert json.loads(fastforget.output("log", "verify", "kept/requests.jsonl", "--json"))["signed"] is True
    Path("kept/requests.jsonl.signed").unlink()
    assert "requests.jsonl.signed` must be there" in fastforget.error_line("log", "verify", "kept")
    Archive("plain").ask(Request("a", (1,), "", ""))
    assert "signed" not in fastforget.output("log", "verify", "plain")
    assert "must be signed by the key" in fastforget.error_line("log", "verify", "plain", *PUBLIC)


@pytest.mark.parametrize("form", ["csv", "json", "html"])
def test_export(form: str, archive: Archive, fastforget: CommandLine) -> None:
    Path("names.txt").write_text("cat\ndog\n")
    to = ("--output", f"record.{form}")
    assert fastforget.output("log", "export", "kept", *to, "--names", "names.txt") == f"wrote record.{form}\n"
    text = Path(f"record.{form}").read_text()
    assert "dog" in text
    assert archive.head().head.size == 5
    assert "which exists" in fastforget.error_line("log", "export", "kept", *to)
    assert json.loads(fastforget.output("log", "export", "kept", *to, "--force", "--json"))["records"] == 4


def test_another_kind_of_export(archive: Archive, fastforget: CommandLine) -> None:
    outcome = fastforget("log", "export", "kept", "--output", "record.pdf")
    assert outcome.status == 2
    assert "must end in .csv, .json, .html" in " ".join(outcome.err.split())


def test_the_key_is_changed(archive: Archive, fastforget: CommandLine) -> None:
    fastforget.output("keys", "--output", "next.pem", "--public", "next-public.pem")
    change = ("log", "change-key", "kept", "--sign", "private.pem", "--new", "next.pem")
    said = json.loads(fastforget.output(*change, "--json"))
    assert said["public_key"] == SigningKey.load("next.pem").public.text
    assert "handed over to it" in fastforget.error_line(*change)
    back = ("log", "change-key", "kept", "--sign", "next.pem", "--new", "private.pem")
    assert "must be one that never signed this log" in fastforget.error_line(*back)
    outcome = fastforget("log", "change-key", "none", *change[3:])
    assert (outcome.status, "'none' does not exist" in outcome.err) == (2, True)
    fastforget.output("log", "prove", "kept", "--request", "b", "--output", "proof.json")
    for public in ("public.pem", "next-public.pem"):
        assert "signed by that key" in fastforget.output("log", "check", "proof.json", "--public-key", public)
        assert "signed by that key" in fastforget.output("log", "verify", "kept", "--public-key", public)


def test_a_time_stamp(archive: Archive, fastforget: CommandLine, tmp_path: Path) -> None:
    pytest.importorskip("rfc3161_client")
    from serving.history.test_stamps import Authority

    authority = Authority(tmp_path / "authority")
    stamp = ("log", "stamp", "kept", "--keep", "stamp.json")
    asked = json.loads(fastforget.output(*stamp, "--query", "stamp.tsq", "--json"))
    assert asked["size"] == 5
    archive.ask(Request("d", (1,), "a person", "2026-01-01T00:00:00+00:00"))
    Path("stamp.tsr").write_bytes(authority.answer(Path("stamp.tsq").read_bytes()))
    answer = ("--reply", "stamp.tsr", "--authority", str(authority.root))
    assert "the authority saw 5 records" in fastforget.output(*stamp, *answer)
    check = ("log", "check-stamp", "stamp.json", *answer[2:])
    assert fastforget.output(*check, "--log", "kept", *PUBLIC).endswith("; kept/requests.jsonl continues them\n")
    for wrong in ((), ("--query", "a", "--reply", "b"), answer[:2]):
        outcome = fastforget(*stamp, *wrong)
        assert (outcome.status, "either `--query` must be given" in outcome.err) == (2, True)
    assert "which exists" in fastforget.error_line(*stamp, "--query", "another.tsq")
