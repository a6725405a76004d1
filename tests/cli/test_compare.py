"""`fastforget compare`: the table, JSON, the exit status, and wrong calls in one line."""

import json
from pathlib import Path

import pytest
from cli.command_line import CommandLine
from safetensors.torch import save_file

from fastforget.codes.mnemonic_codes import MnemonicCodes

CONFIG = """
seeds = [0, 1]

[model]
make = "nets:mlp"

[training]
epochs = 1

[data]
train = "samples.safetensors"
test = "samples.safetensors"

[forget]
classes = [3]

[audit]
relearning_steps = 0

[[methods]]
method = "fine_tune"
epochs = 1

[[methods]]
method = "own:shout"
"""
OWN = """
def shout(model, forget, remain):
    print("for people, not for programs")

def fails(model, forget, remain):
    raise RuntimeError("no luck")
"""


@pytest.fixture
def config(model_folder: Path) -> Path:
    """A configuration in the working folder."""
    codes = MnemonicCodes.generate(4, (6,), per_class=30)
    save_file({"inputs": codes.inputs.clone(), "targets": codes.labels}, model_folder / "samples.safetensors")
    (model_folder / "own.py").write_text(OWN)
    path = model_folder / "comparison.toml"
    path.write_text(CONFIG)
    return path


def test_the_table_and_the_files(fastforget: CommandLine, config: Path) -> None:
    outcome = fastforget("compare", "comparison.toml")
    assert outcome.status == 0
    assert "for people" in outcome.err
    assert "for people" not in outcome.out
    lines = outcome.out.splitlines()
    assert lines[0].split()[:3] == ["method", "forget,", "%"]
    assert [line.split()[0] for line in lines[2:6]] == ["original", "retrained", "fine_tune", "shout"]
    assert all("±" in line for line in lines[2:6])
    said = lines[-1]
    assert said.startswith("measured 8 of 8 rows; wrote comparison.csv, comparison.tex, comparison.html in ")
    assert {path.name for path in Path("comparison").iterdir()} == {
        *("networks", "rows.jsonl", "comparison.csv", "comparison.tex", "comparison.html")
    }
    again = fastforget("compare", "comparison.toml")
    assert again.out == outcome.out.replace("measured 8 of 8", "measured 0 of 8")


def test_json_and_another_folder(fastforget: CommandLine, config: Path) -> None:
    found = json.loads(fastforget("compare", "comparison.toml", "--output", "elsewhere/deep", "--json").out)
    assert found["measured"] == 8
    assert found["methods"]["retrained"]["average gap"] == {"mean": 0, "deviation": 0}
    assert Path("elsewhere/deep/rows.jsonl").exists()
    assert not Path("comparison").exists()


def test_a_method_that_fails_sets_the_exit_status(fastforget: CommandLine, config: Path) -> None:
    config.write_text(CONFIG.replace("own:shout", "own:fails"))
    outcome = fastforget("compare", "comparison.toml")
    assert outcome.status == 1
    assert "! fails, seed 1, failed: RuntimeError: no luck" in outcome.out
    assert "fine_tune" in Path("comparison/comparison.csv").read_text()


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("fine_tune", "finetune", "`methods[0].method` must be 'package.module:function' or one of "),
        ("seeds =", "sead =", "the configuration must have `seeds`: different integers of at least 0, as a list, got "),
        ("[3]", "[9]", "`forget.classes` must be classes of `data.train`, [0, 1, 2, 3], got 9"),
        ("epochs = 1\n\n[[", "epoch = 1\n\n[[", "`methods[0]` must have settings of "),
        ("nets:mlp", "nets:mpl", "`model.make` must name a function of module nets, got 'mpl', which it lacks"),
        ("[forget]", "[forget", "`comparison.toml` must be TOML: "),
        ('test = "samples', 'test = "sample', "`data.test` must be a file that exists, got "),
    ],
)
def test_wrong_files_are_refused_in_one_line(
    fastforget: CommandLine, config: Path, old: str, new: str, line: str
) -> None:
    assert old in CONFIG
    config.write_text(CONFIG.replace(old, new))
    assert fastforget.error_line("compare", "comparison.toml").startswith(line)
    assert not Path("comparison").exists()


def test_a_file_that_is_missing(fastforget: CommandLine, model_folder: Path) -> None:
    assert "No such file" in fastforget.error_line("compare", "no.toml")
