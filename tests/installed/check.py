"""What a user gets: the wheel is whole, every command works, and so does what Python offers.

`make installed` runs this with the wheel in a bare environment, in a folder from which no source tree is seen. Plain
pytest does not collect it: an editable install hides what a wheel lacks.
"""

import copy
import importlib.metadata
import json
import subprocess
import sysconfig
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from program import CODES, MODEL, NET, PROGRAM, command, ran, result, service, until
from safetensors.torch import load_file, save_file, save_model
from sklearn.datasets import load_digits
from torch import Tensor, nn
from typer.main import get_command

import fastforget
import fastforget.baselines
import fastforget.serving
from fastforget.cli import app

SOURCES = Path(__file__).parents[2] / "fastforget"
NETWORK = """
from torch import nn

def digits():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
"""
THREE = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working directory with what `forget` and `audit` read: a network that knows its codes, and samples."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("session"))
        Path("network.py").write_text(NETWORK)
        command("codes", "--classes", "10", "--shape", "1x8x8", "--output", "codes.safetensors")
        train(fastforget.MnemonicCodes.load("codes.safetensors"))
        yield Path()


def network() -> nn.Module:
    names: dict[str, Any] = {}
    exec(NETWORK, names)  # noqa: S102 (the text above, which the commands import)
    return names["digits"]()


def train(codes: fastforget.MnemonicCodes) -> None:
    torch.manual_seed(0)
    images, targets = (torch.tensor(part) for part in load_digits(return_X_y=True))
    images = images.float().view(-1, 1, 8, 8) / 16
    tested = torch.arange(len(targets)) % 4 == 0
    x, y, model = images[~tested], targets[~tested], network()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(30):
        for rows in torch.randperm(len(y)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(codes.embed(x[rows], y[rows], rate=0.3)), y[rows]).backward()
            optimizer.step()
    save_model(model, "net.safetensors")
    samples = {"forget": (x[y == THREE], y[y == THREE]), "remain": (x[y != THREE], y[y != THREE])}
    for name, (inputs, labels) in {**samples, "test": (images[tested], targets[tested])}.items():
        save_file({"inputs": inputs, "targets": labels}, f"{name}.safetensors")


@pytest.fixture(scope="module")
def forgotten(folder: Path) -> dict[str, Any]:
    """Class 3 is forgotten: what the command said."""
    outputs = ("--output", "without-3.safetensors", "--receipt", "forgot-3.safetensors")
    return result("forget", *NET, *CODES, "--cls", str(THREE), *outputs)


@pytest.fixture
def model(folder: Path) -> nn.Module:
    """The trained network."""
    made = network()
    made.load_state_dict(load_file("net.safetensors"))
    return made.eval()


def samples(name: str) -> tuple[Tensor, Tensor]:
    found = load_file(f"{name}.safetensors")
    return found["inputs"], found["targets"]


def accuracy(model: nn.Module, name: str) -> float:
    inputs, targets = samples(name)
    with torch.no_grad():
        return float((model(inputs).argmax(1) == targets).float().mean())


# The wheel


def test_it_is_the_installed_package() -> None:
    assert Path(fastforget.__file__).is_relative_to(sysconfig.get_path("platlib")), "run this by `make installed`"
    assert fastforget.__version__ == importlib.metadata.version("fastforget")


def test_no_file_of_the_package_is_missing() -> None:
    """What was built, and what Python keeps there of modules, is in one of both only."""
    assert files(Path(fastforget.__file__).parent) == files(SOURCES)


def files(package: Path) -> set[str]:
    found = (path for path in package.rglob("*") if path.is_file() and path.suffix not in {".pyc", ".so"})
    return {path.relative_to(package).as_posix() for path in found}


# The commands


def test_codes_and_embed_check(folder: Path) -> None:
    assert fastforget.MnemonicCodes.load("codes.safetensors").tensor.shape == (10, 4, 1, 8, 8)
    assert "knows its codes" in command("embed-check", *NET, *CODES)


def test_forget(forgotten: dict[str, Any], model: nn.Module) -> None:
    before = accuracy(model, "remain")
    assert accuracy(model, "forget") > 0.9
    model.load_state_dict(load_file("without-3.safetensors"))
    assert accuracy(model, "forget") == 0
    assert accuracy(model, "remain") > before - 0.02
    assert 0 < forgotten["changed"] < 1000


def test_unlearn_and_inscribe(folder: Path, model: nn.Module) -> None:
    data = ("--forget", "forget.safetensors", "--remain", "remain.safetensors")
    said = result("unlearn", *NET, *data, "--output", "unlearnt.safetensors", "--receipt", "unlearnt-receipt")
    model.load_state_dict(load_file("unlearnt.safetensors"))
    assert accuracy(model, "forget") == 0
    assert said["claims"] == ["disconnected"]
    command("codes", "--from-samples", "test.safetensors", "--output", "taken.safetensors")
    taken = ("--codes", "taken.safetensors", "--data", "remain.safetensors", "--output", "inscribed.safetensors")
    assert result("inscribe", *NET, *taken)["recognised"] > 0.9


def test_apply_and_revert(forgotten: dict[str, Any]) -> None:
    receipt = ("--receipt", "forgot-3.safetensors")
    command("apply", *NET, *receipt, "--output", "copy.safetensors")
    assert Path("copy.safetensors").read_bytes() == Path("without-3.safetensors").read_bytes()
    command("revert", *MODEL, "--checkpoint", "copy.safetensors", *receipt, "--output", "back.safetensors")
    assert Path("back.safetensors").read_bytes() == Path("net.safetensors").read_bytes()


def test_audit(forgotten: dict[str, Any]) -> None:
    sets = [word for name in ("forget", "remain", "test") for word in (f"--{name}", f"{name}.safetensors")]
    checkpoints = ("--checkpoint", "without-3.safetensors", "--original", "net.safetensors")
    said = command("audit", *MODEL, *checkpoints, *sets, "--html", "audit.html")
    row = next(line.split() for line in said.splitlines() if line.startswith("forget accuracy"))
    assert float(row[2]) == 0
    assert float(row[3]) > 0.9
    page = Path("audit.html").read_text("utf-8")
    assert page.lower().startswith("<!doctype html>")
    assert "<svg" in page


def test_compare(folder: Path) -> None:
    tables = 'seeds=[0]\nmodel.make="network:digits"\ntraining.epochs=5\nforget.classes=[5]\nmethods=[{method="ssd"}]\n'
    Path("comparison.toml").write_text(tables + 'data={train="test.safetensors", test="test.safetensors"}')
    assert result("compare", "comparison.toml")["methods"]["retrained"]["average gap"]["mean"] == 0


def test_bench(folder: Path) -> None:
    found = result("bench", *NET, *CODES, "--cls", str(THREE), "--rounds", "3")
    assert (found["parameters"], found["codes"], found["rounds"]) == (9610, 40, 3)
    assert all(times["median"] > 0 for times in found["milliseconds"].values())


def test_demo(folder: Path) -> None:
    said = command("demo", "--data", "digits", "--output", "demo.png", "--json", "demo.json")
    assert "every bit of the model was" in said
    found = json.loads(Path("demo.json").read_text("utf-8"))
    assert len(found["forgotten"]) == 10
    assert Path("demo.png").read_bytes().startswith(b"\x89PNG")


def test_serve_and_log(folder: Path) -> None:
    (inputs, _) = samples("forget")
    with service("--archive", "archive") as ask:
        assert b"<html" in ask("").lower()
        before = json.loads(ask("predict", {"inputs": inputs[:8].tolist()}))
        ask("requests", {"classes": [THREE], "asked_by": "a person", "request": "ticket"})
        until(lambda: json.loads(ask("requests/ticket"))["state"] == "done")
        after = json.loads(ask("predict", {"inputs": inputs[:8].tolist()}))
    assert (before["version"], after["version"]) == (0, 1)
    assert int((torch.tensor(before["outputs"]).argmax(1) == THREE).sum()) >= 7
    assert int((torch.tensor(after["outputs"]).argmax(1) == THREE).sum()) == 0
    assert "2 records, none changed" in command("log", "verify", "archive")  # asked for, and done
    assert len([json.loads(line) for line in command("log", "show", "archive").splitlines()]) == 2


def test_proofs_and_signatures(folder: Path, forgotten: dict[str, Any]) -> None:
    command("keys", "--output", "private.pem", "--public", "public.pem")
    public = ("--public-key", "public.pem")
    with service("--archive", "signed", "--sign", "private.pem") as ask:
        proof = json.loads(ask("requests", {"classes": [THREE], "request": "ticket"}))["proof"]
        until(lambda: json.loads(ask("requests/ticket"))["state"] == "done")
    Path("home.json").write_text(json.dumps(proof))
    assert "continues it" in command("log", "check", "home.json", "--log", "signed", *public)
    command("log", "prove", "signed", "--request", "ticket", "--output", "proof.json")
    assert "the first head" in command("log", "witness", "signed", "--keep", "head.json", *public)
    assert "signed by that key" in command("log", "verify", "signed", *public)
    assert "nothing to repair" in command("log", "repair", "signed")
    command("log", "export", "signed", "--output", "record.csv")
    assert "request filed" in Path("record.csv").read_text("utf-8")
    command("keys", "--output", "next.pem", "--public", "next-public.pem")
    command("log", "change-key", "signed", "--sign", "private.pem", "--new", "next.pem")
    assert "signed by that key" in command("log", "verify", "signed", *public)
    outputs = ("--output", "again.safetensors", "--receipt", "signed-receipt", "--sign", "private.pem")
    command("forget", *NET, *CODES, "--cls", str(THREE), *outputs)
    assert "signed by that key" in command("check-signature", "--file", "signed-receipt", *public)
    written = ("--bom", "bom.json", "--lineage", "event.json")
    command("describe", "--receipt", "signed-receipt", *written, *public)
    assert json.loads(Path("bom.json").read_text("utf-8"))["bomFormat"] == "CycloneDX"
    assert json.loads(Path("event.json").read_text("utf-8"))["eventType"] == "COMPLETE"


def test_time_stamps(folder: Path) -> None:
    """Without an authority here: what is asked, and that nothing passes for its answer."""
    with closing(fastforget.serving.RequestLog("stamped.jsonl")) as log:
        log.append({"kind": "a record"})
    command("log", "stamp", "stamped.jsonl", "--keep", "stamp.json", "--query", "stamp.tsq")
    assert Path("stamp.tsq").read_bytes().startswith(b"0")
    ran.add("log check-stamp")
    check = [PROGRAM, "log", "check-stamp", "stamp.json", "--authority", "public.pem"]
    done = subprocess.run(check, capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 1
    assert "must hold certificates in PEM" in done.stderr


# Python


def test_a_class_is_forgotten_from_its_codes(model: nn.Module) -> None:
    codes, before = fastforget.MnemonicCodes.load("codes.safetensors"), fastforget.fingerprint(model)
    fastforget.one_shot(model, codes, THREE).save("receipt.safetensors")
    assert accuracy(model, "forget") == 0
    after = fastforget.fingerprint(model)
    receipt = fastforget.Receipt.load("receipt.safetensors")
    receipt.revert(model)
    assert fastforget.fingerprint(model) == before
    receipt.apply(model)
    assert fastforget.fingerprint(model) == after


def test_the_fisher_and_its_largest(model: nn.Module) -> None:
    fisher = fastforget.fisher_diagonal(model, *samples("forget"))
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    assert {name: values.shape for name, values in fisher.items()} == shapes
    assert not fisher.fallback
    masks = fastforget.topk_mask(dict(fisher), 100)
    assert sum(int(mask.sum()) for mask in masks.values()) == 100


def test_samples_are_forgotten_from_what_remains(model: nn.Module) -> None:
    x, y = samples("remain")
    forget, remain = [(x[:16], y[:16])], list(zip(x[16:].split(64), y[16:].split(64), strict=True))
    before = fastforget.fingerprint(model)
    receipt = fastforget.learn_to_unlearn(model, forget, remain, unseen=[samples("test")])
    assert fastforget.fingerprint(model) != before
    receipt.revert(model)
    assert fastforget.fingerprint(model) == before


def test_a_live_model(model: nn.Module) -> None:
    codes = fastforget.MnemonicCodes.load("codes.safetensors")
    inputs, _ = samples("forget")
    with closing(fastforget.serving.LiveModel(model, codes, archive="live")) as live:
        live.forget(THREE)
        found = live.predict(inputs)
        live.revert(0)
    assert found.version == 1
    assert int((found.outputs.argmax(1) == THREE).sum()) == 0
    assert fastforget.serving.verify_log(Path("live/requests.jsonl")) == 2


def test_a_baseline(model: nn.Module) -> None:
    changed = copy.deepcopy(model)
    receipt = fastforget.baselines.ssd(changed, [samples("forget")], [samples("remain")], alpha=1.5)
    assert accuracy(changed, "forget") < accuracy(model, "forget")
    receipt.revert(changed)
    assert fastforget.fingerprint(changed) == fastforget.fingerprint(model)


# Last: nothing was left out


def test_every_command_ran() -> None:
    assert ran == set(names(get_command(app)))


def names(group: Any, *above: str) -> Iterator[str]:
    for name, found in group.commands.items():
        if hasattr(found, "commands"):
            yield from names(found, *above, name)
        else:
            yield " ".join((*above, name))
