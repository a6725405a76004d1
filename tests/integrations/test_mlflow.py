"""A forgotten model becomes a version in the registry of MLflow."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from known_codes import mlp, model_with_codes
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from fastforget import Receipt, audit, fingerprint, one_shot
from fastforget.edits.history import EditHistory
from fastforget.integrations import log_forgotten

mlflow = pytest.importorskip("mlflow")
pytestmark = pytest.mark.filterwarnings("default")  # warnings of other libraries are no errors


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A store of its own for each test. The example has one in a file of SQLite."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.chdir(tmp_path)
    store = (tmp_path / "store").as_uri()
    mlflow.set_tracking_uri(store)
    mlflow.set_registry_uri(store)
    made = mlflow.MlflowClient()
    mlflow.set_experiment(experiment_id=made.create_experiment("test", (tmp_path / "artifacts").as_uri()))
    yield made
    while mlflow.active_run():
        mlflow.end_run()
    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)


def forgotten(cls: int = 2) -> tuple[nn.Module, Receipt]:
    model, codes = model_with_codes()
    model.config = SimpleNamespace(id2label={0: "cat", 1: "dog", 2: "eel", 3: "fox"})  # type: ignore[assignment]
    return model, one_shot(model, codes, cls)


def files(version: Any) -> Path:
    return Path(mlflow.artifacts.download_artifacts(f"models:/{version.name}/{version.version}"))


def test_a_version_with_receipt_and_tags(client: Any) -> None:
    model, receipt = forgotten()
    log_forgotten(model, receipt, "animals")
    version = client.get_model_version("animals", "1")
    expected = {
        "fastforget.classes": "2", "fastforget.names": "eel", "fastforget.rule": "natural",
        "fastforget.outcome": receipt.outcome, "fastforget.before": receipt.before, "fastforget.after": receipt.after,
        "fastforget.reversible": "true",
    }  # fmt: skip
    assert expected.items() <= version.tags.items()
    run = client.get_run(version.run_id)
    assert expected.items() <= run.data.tags.items()
    assert run.info.status == "FINISHED"
    assert mlflow.active_run() is None
    found = files(version)
    loaded = mlp().eval()
    loaded.load_state_dict(load_file(found / "model.safetensors"))
    assert fingerprint(loaded) == receipt.after
    kept = Receipt.load(found / "receipt.safetensors")
    assert json.loads((found / "receipt.json").read_text()) == receipt.describe()
    kept.revert(loaded)
    assert fingerprint(loaded) == receipt.before
    assert not (found / "audit.json").exists()


def test_the_next_version_knows_the_edits_before(client: Any) -> None:
    model, first = forgotten()
    codes = model_with_codes()[1]
    log_forgotten(model, first, "animals")
    second = one_shot(model, codes, 1, forgotten=[2]).without_undo()
    version = log_forgotten(model, second, "animals", history=EditHistory().followed_by(first))
    assert int(version.version) == 2
    assert version.tags["fastforget.reversible"] == "false"
    with safe_open(files(version) / "model.safetensors", framework="pt") as file:
        history = EditHistory.read(file.metadata())
    assert history.forgotten == (2, 1)
    assert history.leads_to(fingerprint(model))
    found = client.search_model_versions("tags.`fastforget.classes` = '1'")
    assert [int(each.version) for each in found] == [2]


def test_the_audit_is_an_artifact(client: Any) -> None:
    pytest.importorskip("matplotlib")
    model, receipt = forgotten()
    x, y = torch.randn(24, 6), torch.arange(24) % 4
    report = audit(model, [(x[y == 2], y[y == 2])], [(x[y != 2], y[y != 2])], [(x, y)], relearning_steps=0)
    found = files(log_forgotten(model, receipt, "animals", audit=report))
    assert json.loads((found / "audit.json").read_text()) == report.describe()
    assert "<html" in (found / "audit.html").read_text()


def test_the_active_run_is_used_and_stays_open(client: Any) -> None:
    model, receipt = forgotten()
    with mlflow.start_run() as run:
        version = log_forgotten(model, receipt, "animals")
        assert mlflow.active_run().info.run_id == version.run_id == run.info.run_id


class Tied(nn.Module):
    """Two names for one weight, and state that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def get_extra_state(self) -> str:
        return "no tensor"

    def set_extra_state(self, state: str) -> None:
        assert state == "no tensor"


def test_tied_weights_and_samples(client: Any) -> None:
    model, before = Tied(), Tied()
    before.load_state_dict(model.state_dict())
    nn.init.zeros_(model.second.bias)
    version = log_forgotten(model, Receipt.between(before, model), "tied")
    assert version.tags["fastforget.classes"] == version.tags["fastforget.names"] == ""
    loaded = load_file(files(version) / "model.safetensors")
    assert torch.equal(loaded["first.weight"], loaded["second.weight"])


def test_refusals_log_nothing(client: Any) -> None:
    model, receipt = forgotten()
    other = model_with_codes()[0]
    report = audit(other, *[[(torch.randn(24, 6), torch.arange(24) % 4)]] * 3, relearning_steps=0)
    with pytest.raises(ValueError, match="`model` must be as this edit left it"):
        log_forgotten(other, receipt, "animals")
    with pytest.raises(TypeError, match="`receipt` must be a Receipt, got str"):
        log_forgotten(model, "receipt", "animals")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`registered_model_name` must be a text, got int"):
        log_forgotten(model, receipt, 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`history` must be an EditHistory, got list"):
        log_forgotten(model, receipt, "animals", history=[])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`audit` must be an AuditReport, got str"):
        log_forgotten(model, receipt, "animals", audit="good")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`audit` must be of the model that the edit left"):
        log_forgotten(model, receipt, "animals", audit=report)
    assert not client.search_registered_models()
    assert mlflow.active_run() is None


def test_a_name_that_mlflow_refuses(client: Any) -> None:
    model, receipt = forgotten()
    with pytest.raises(mlflow.exceptions.MlflowException):
        log_forgotten(model, receipt, "a/b")
    assert mlflow.active_run() is None
    assert not client.search_runs([mlflow.get_experiment_by_name("test").experiment_id])


def test_a_failure_ends_the_run(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, receipt = forgotten()
    (Path.cwd() / "artifacts").write_text("no folder")
    with pytest.raises(Exception, match="artifacts"):
        log_forgotten(model, receipt, "animals")
    assert mlflow.active_run() is None
    (run,) = client.search_runs([mlflow.get_experiment_by_name("test").experiment_id])
    assert run.info.status == "FAILED"


def test_without_mlflow() -> None:
    code = """
import sys
sys.modules["mlflow"] = None  # makes importing it fail
import copy, torch
from fastforget import Receipt
from fastforget.integrations import log_forgotten
model = torch.nn.Linear(2, 2)
before = copy.deepcopy(model)
torch.nn.init.zeros_(model.bias)
try:
    log_forgotten(model, Receipt.between(before, model), "animals")
except ModuleNotFoundError as error:
    print(error)
"""
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)  # noqa: S603
    assert found.stdout == "versions in a registry need MLflow: pip install mlflow\n"
