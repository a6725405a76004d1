"""Configurations: files of every form, and functions, give the same rows."""

from pathlib import Path

import numpy as np
import pytest
import torch
from comparison.small import MINE, TEST, TRAIN, UNSEEN, config, network, nothing, run, untimed
from safetensors.torch import save_file

from fastforget import MnemonicCodes, compare

TOML = """
seeds = [0]
output = "here"

[model]
make = "mine:network"

[training]
epochs = 12
lr = 0.3

[data]
train = "{train}"
test = "{test}"

[forget]
classes = [2]

[audit]
relearning_steps = 0

[[methods]]
method = "mine:method"
name = "my method"
by = 0.5

[[methods]]
method = "fine_tune"
epochs = 1
"""


def write_samples(folder: Path) -> None:
    for name, (x, y) in {"train": TRAIN, "test": TEST}.items():
        save_file({"inputs": x.clone(), "targets": y.clone()}, folder / f"{name}.safetensors")
        np.savez(folder / f"{name}.npz", inputs=x.numpy(), targets=y.numpy().astype("int16"))


def test_files_and_functions_give_the_same_rows(folder: Path) -> None:
    """From another working directory than that of the file."""
    write_samples(folder)
    (folder / "below").mkdir()
    found = []
    for train, test in (
        ("train.safetensors", "test.npz"),
        ("train.npz", "test.safetensors"),
        ("mine:train", "test.npz"),
    ):
        place = folder / Path(train).suffix.removeprefix(".") / "with"
        place.mkdir(parents=True)
        write_samples(place)
        (place / "mine.py").write_text(MINE)
        (place / "compare.toml").write_text(TOML.format(train=train, test=test))
        result = compare(place / "compare.toml")
        assert result.folder == place / "here"
        assert [row.method for row in result.rows] == ["original", "retrained", "my method", "fine_tune"]
        assert not result.failures
        found.append(untimed(result))
    assert found[0] == found[1] == found[2]


def test_networks_that_exist_are_taken(folder: Path) -> None:
    torch.manual_seed(5)
    models = [network(), network()]
    for seed in (0, 1):
        save_file(models[0].state_dict(), folder / f"net-{seed}.safetensors")
    save_file(models[1].state_dict(), folder / "again.safetensors")
    model = {"make": network, "checkpoint": "net-{seed}.safetensors", "retrained": ["again.safetensors"]}
    found = run(folder / "output", model=model, training=None, methods=[{"method": nothing}])
    assert [row.method for row in found.rows] == 2 * ["original", "retrained", "nothing"]
    first, second = (found.rows[place].measures for place in (0, 3))
    assert first == second
    with torch.no_grad():
        right = (models[0](TEST[0]).argmax(1) == TEST[1])[TEST[1] != 2].double().mean()
    assert first["test accuracy"] == pytest.approx(right.item())
    assert "time" not in first
    assert not (folder / "output" / "networks").exists()


def test_files_that_are_no_configuration(folder: Path) -> None:
    with pytest.raises(FileNotFoundError):
        compare("no.toml")
    Path("bad.toml").write_text("seeds = [1\n[model]\n")
    with pytest.raises(ValueError, match=r"^`bad.toml` must be TOML: .*line 2"):
        compare("bad.toml")
    Path("bad.toml").write_bytes(b"seeds = '\xff'")
    with pytest.raises(ValueError, match=r"^`bad.toml` must be TOML: .*utf-8"):
        compare("bad.toml")
    Path("bad.toml").write_text("seeds = " + "[" * 9000)
    with pytest.raises(ValueError, match=r"^`bad.toml` must be TOML: .*recursion"):
        compare("bad.toml")
    with pytest.raises(TypeError, match=r"^`config` must be a file or a mapping, got int$"):
        compare(3)  # type: ignore[arg-type]


def test_codes_are_given_to_one_shot(tmp_path: Path) -> None:
    """A network that does not know them is refused by one_shot, and the others go on."""
    MnemonicCodes.generate(4, (30,)).save(tmp_path / "codes.safetensors")
    data = {"train": TRAIN, "test": TEST, "unseen": UNSEEN, "codes": str(tmp_path / "codes.safetensors")}
    found = run(tmp_path, data=data, methods=[{"method": "one_shot"}, {"method": nothing}], seeds=[0])
    assert found.failures[0].text.startswith("UnrecognisedCodesError: ")
    assert list(found.summaries) == ["original", "retrained", "nothing"]


def test_the_usual_configuration_is_right() -> None:
    assert config(seeds=None).keys() == {"model", "training", "data", "forget", "methods", "audit"}
