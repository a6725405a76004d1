"""Models of timm forget as they are, and go to a folder that timm loads."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from integrations.small_models import NAMES, TIMM, edited
from torch import nn

from fastforget import MnemonicCodes, fingerprint, one_shot
from fastforget.classifier.class_names import class_names
from fastforget.integrations import history_of, save_forgotten

libraries = pytest.importorskip("sweep.libraries")  # which imports timm without torchvision
if find_spec("timm") is None:
    pytest.skip("timm is not installed", allow_module_level=True)
timm = libraries.import_timm()
pytestmark = pytest.mark.filterwarnings("default")  # warnings of other libraries are no errors


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name, num_classes=4, in_chans=1)
    model.pretrained_cfg["label_names"] = NAMES  # type: ignore[index, operator]
    return model.eval()


@pytest.mark.parametrize("name", [TIMM, "test_vit", "test_efficientnet"])
def test_what_is_loaded_is_what_the_history_speaks_of(tmp_path: Path, name: str) -> None:
    model = network(name)
    receipt = edited(model, 2)
    save_forgotten(model, tmp_path, receipt)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    history = history_of(tmp_path)
    assert history.forgotten == (2,)
    assert fingerprint(loaded) == receipt.after
    assert not list(tmp_path.glob("*.bin"))
    assert "| 2 | eel | not on record | by hand |" in (tmp_path / "README.md").read_text()
    assert class_names(loaded) == list(NAMES)
    second = edited(loaded, 1)
    save_forgotten(loaded, tmp_path, second)
    assert history_of(tmp_path).forgotten == (2, 1)


@pytest.mark.parametrize("name", [TIMM, "test_vit"])
def test_the_class_is_disconnected_in_the_layer_that_timm_names(name: str) -> None:
    """Codes that the network gets right are images: here it is trained on nothing else."""
    model = network(name)
    codes = MnemonicCodes.generate(4, (1, 160, 160), per_class=2)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(12):
        nn.functional.cross_entropy(model(codes.inputs), codes.labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    receipt = one_shot(model, codes, 2)
    assert "disconnected" in receipt.claims
    output = model.get_classifier()  # type: ignore[operator]
    (layer,) = [path for path, module in model.named_modules() if module is output]
    assert f"{layer}.weight" in receipt.edits
