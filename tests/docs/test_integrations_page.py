"""The examples of docs/guide/integrations.md run as written, each with its library and a small model."""

import copy
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import known_codes
import pytest
import safetensors.torch
import torch
from integrations.small_models import TIMM, accuracy, digits_vit, large, train_on
from torch.utils.data import DataLoader, TensorDataset

import fastforget
from fastforget.demo.data import load_digits
from fastforget.demo.models import small_resnet

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "integrations.md"
pytestmark = pytest.mark.filterwarnings("default")  # warnings of other libraries are no errors


def examples(library: str) -> list[str]:
    """Return the examples in the section of a library."""
    sections = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    (text,) = [section for section in sections if section.startswith(f"{library}\n")]
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def run(library: str, names: dict[str, Any]) -> dict[str, Any]:
    """Run them, and return what they named."""
    names = {"fastforget": fastforget, **names}
    for example in examples(library):
        exec(example, names)  # noqa: S102 (our own page)
    return names


def test_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    monkeypatch.chdir(tmp_path)
    transformers.set_seed(0)
    data, model = load_digits(0), digits_vit()
    settings = transformers.TrainingArguments(
        output_dir=str(tmp_path / "training"), num_train_epochs=15, per_device_train_batch_size=64, learning_rate=3e-3,
        save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    samples = [{"pixel_values": x, "labels": int(y)} for x, y in zip(data.x_train, data.y_train, strict=True)]
    names = run("transformers", {"model": model, "settings": settings, "train_set": samples})
    assert names["history"].forgotten == (3,)
    assert names["history"].leads_to(fastforget.fingerprint(model))
    loaded = type(model).from_pretrained("forgotten").eval()  # type: ignore[attr-defined]
    assert names["history_of"]("forgotten").forgotten == (3, 5)
    assert names["history_of"]("forgotten").leads_to(fastforget.fingerprint(loaded))
    for cls in (3, 5):
        assert accuracy(loaded, data.x_test, data.y_test, cls)[0] <= 0.02
    rest = ~torch.isin(data.y_test, torch.tensor([3, 5]))
    assert accuracy(loaded, data.x_test[rest], data.y_test[rest], 3)[1] >= 0.9


def test_peft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    peft = pytest.importorskip("peft")
    monkeypatch.chdir(tmp_path)
    data = load_digits(0)
    torch.manual_seed(0)
    # Adapters of a network that was trained, with its classifier beside them.
    base = digits_vit()
    train_on(base, data.x_train, data.y_train, 15)
    settings = peft.LoraConfig(target_modules="all-linear", modules_to_save=["classifier"])
    model = peft.get_peft_model(base, settings)
    train_on(model, data.x_train, data.y_train, 3)
    frozen = {name: value.detach().clone() for name, value in model.named_parameters() if not value.requires_grad}
    names = run("PEFT", {"model": model, "inputs": data.x_train[:320], "targets": data.y_train[:320]})
    assert names["receipt"].classes == (3,)
    forgotten, kept = accuracy(model, data.x_test, data.y_test, 3)
    assert forgotten <= 0.02
    assert kept >= 0.9
    assert all(torch.equal(value, frozen[name]) for name, value in model.named_parameters() if name in frozen)
    assert (tmp_path / "adapters" / "adapter_model.safetensors").exists()


def test_timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    libraries = pytest.importorskip("sweep.libraries")  # which imports timm without torchvision
    if find_spec("timm") is None:
        pytest.skip("timm is not installed")
    timm = libraries.import_timm()
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    data, model = load_digits(0), timm.create_model(TIMM, num_classes=10, in_chans=1)
    train_on(model, large(data.x_train), data.y_train, epochs=4)
    few = torch.cat([(data.y_train == cls).nonzero()[:16, 0] for cls in range(10)])
    names = run("timm", {"model": model, "images": large(data.x_train[few]), "labels": data.y_train[few]})
    assert "disconnected" in names["receipt"].claims
    loaded = names["loaded"].eval()
    assert fastforget.fingerprint(loaded) == names["receipt"].after
    asked, rest = accuracy(loaded, large(data.x_test), data.y_test, 3)
    assert asked <= 0.02
    assert rest >= 0.9


def test_lightning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lightning = pytest.importorskip("lightning")
    monkeypatch.chdir(tmp_path)
    data = load_digits(0)

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.network = small_resnet(num_classes=10, seed=0)

        def forward(self, x: Any) -> Any:
            return self.network(x)

        def training_step(self, batch: Any) -> Any:
            return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)

    torch.manual_seed(0)
    loader = DataLoader(TensorDataset(data.x_train, data.y_train), batch_size=64, shuffle=True)
    codes, module = fastforget.MnemonicCodes.generate(10, (1, 8, 8)), Module()
    run("Lightning", {"codes": codes, "module": module, "loader": loader})
    asked, rest = accuracy(module, data.x_test, data.y_test, 3)
    assert asked <= 0.02
    assert rest >= 0.9


def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "store").as_uri())
    mlflow.set_registry_uri((tmp_path / "store").as_uri())
    mlflow.set_experiment("page")
    try:
        model, codes = known_codes.model_with_codes()
        edited = copy.deepcopy(model)
        fastforget.one_shot(edited, codes, 3)
        samples = [[(torch.randn(24, 6), torch.arange(24) % 4)]] * 3
        report = fastforget.audit(edited, *samples, relearning_steps=0)
        fresh = known_codes.mlp().eval()
        first, second = examples("MLflow")
        names = {"fastforget": fastforget, "safetensors": safetensors, "model": model, "codes": codes, "report": report}
        exec(first, names)  # noqa: S102 (our own page)
        exec(second, {**names, "model": fresh})  # noqa: S102
        assert fastforget.fingerprint(fresh) == names["receipt"].after
        text = PAGE.read_text(encoding="utf-8")
        (query,) = re.findall(r'search_model_versions\("(.*?)"\)', text)
        (found,) = mlflow.MlflowClient().search_model_versions(query)
        assert found.tags["fastforget.reversible"] == "false"
    finally:
        mlflow.set_tracking_uri(None)
        mlflow.set_registry_uri(None)
