"""Receipts and reports are signed and checked by commands."""

import json
from pathlib import Path

import pytest
import torch
from cli.command_line import FORGET, NET, CommandLine
from safetensors.torch import load_file

pytest.importorskip("cryptography")


def test_a_receipt_is_signed_and_checked(model_folder: Path, fastforget: CommandLine) -> None:
    for name in ("", "2"):
        fastforget.output("keys", "--output", f"private{name}.pem", "--public", f"public{name}.pem")
    fastforget.output(*FORGET, "--sign", "private.pem")
    printed = fastforget.output("check-signature", "--file", "forgot.safetensors", "--public-key", "public.pem")
    assert printed.startswith("forgot.safetensors: signed by that key; the receipt of class 2")
    other = ("--public-key", "public2.pem")
    line = fastforget.error_line("check-signature", "--file", "forgot.safetensors", *other)
    assert "must be signed by the key" in line
    apply = ("apply", *NET, "--receipt", "forgot.safetensors", "--output", "copy.safetensors")
    assert "must be signed by the key" in fastforget.error_line(*apply, *other)
    fastforget.output(*apply, "--public-key", "public.pem")
    copied, made = load_file("copy.safetensors"), load_file("new.safetensors")
    assert all(torch.equal(copied[name], made[name]) for name in made)
    fastforget.output(*FORGET, "--force")
    line = fastforget.error_line(*apply, "--force", "--public-key", "public.pem")
    assert "but it is not signed" in line
    assert "private key in PEM" in fastforget.error_line(*FORGET, "--force", "--sign", "public.pem")


def test_a_report_is_signed_and_checked(model_folder: Path, fastforget: CommandLine) -> None:
    fastforget.output("keys", "--output", "private.pem", "--public", "public.pem")
    samples = [word for name in ("forget", "remain", "test") for word in (f"--{name}", "samples.safetensors")]
    audit = ("audit", *NET, *samples, "--report", "audit.json", "--sign", "private.pem", "--relearning-steps", "0")
    assert fastforget(*audit).status in (0, 1)
    check = ("check-signature", "--file", "audit.json", "--public-key", "public.pem")
    said = json.loads(fastforget.output(*check, "--json"))
    assert said["kind"] == "audit"
    assert said["model"] == json.loads(Path("audit.json").read_text())["model"]
    Path("audit.json").write_text(Path("audit.json").read_text().replace(said["model"], "0" * len(said["model"])))
    assert "it was changed after the key" in fastforget.error_line(*check)
    assert fastforget("audit", *NET, *samples, "--sign", "private.pem").status == 2
