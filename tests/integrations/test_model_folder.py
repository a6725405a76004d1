"""A folder that transformers loads says what the model was made to forget."""

import copy
import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from integrations.small_models import NAMES, configured, edited
from safetensors.torch import save_file
from torch import nn

from fastforget import Receipt, audit, fingerprint
from fastforget.edits.history import EditHistory
from fastforget.integrations import history_of, save_forgotten

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("default")  # warnings of other libraries are no errors

HISTORY, AUDIT = "fastforget-history.json", "fastforget-audit.json"


def loaded(model: nn.Module, folder: Path) -> nn.Module:
    found: nn.Module = type(model).from_pretrained(folder)  # type: ignore[attr-defined]
    return found.eval()


def card(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ["vit", "bert", "bart"])
def test_what_is_loaded_is_what_the_history_speaks_of(tmp_path: Path, kind: str) -> None:
    model = configured(kind)
    receipt = edited(model, 2)
    written = save_forgotten(model, tmp_path / "new" / "model", receipt)
    history = history_of(tmp_path / "new" / "model")
    assert history == written
    assert history.forgotten == (2,)
    again = loaded(model, tmp_path / "new" / "model")
    assert fingerprint(again) == receipt.after
    assert history.leads_to(fingerprint(again))
    assert not list((tmp_path / "new" / "model").glob("*.bin"))


def test_the_models_are_of_the_kinds_that_are_hard_to_save() -> None:
    bert, bart = configured("bert"), configured("bart")
    assert dict(bert.named_buffers()).keys() - bert.state_dict().keys()
    weights = dict(bart.named_parameters(remove_duplicate=False))
    assert len({id(weight) for weight in weights.values()}) < len(weights)


def test_weights_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file of an earlier number of parts stays, which would know the class."""
    model = configured("vit")
    whole = model.save_pretrained
    model.save_pretrained(tmp_path)  # type: ignore[operator]
    receipt = edited(model, 2)
    monkeypatch.setattr(model, "save_pretrained", functools.partial(whole, max_shard_size="4KB"))
    save_forgotten(model, tmp_path, receipt)
    assert not (tmp_path / "model.safetensors").exists()
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert fingerprint(loaded(model, tmp_path)) == receipt.after
    monkeypatch.undo()
    second = edited(model, 1)
    save_forgotten(model, tmp_path, second)
    assert [file.name for file in tmp_path.glob("model*")] == ["model.safetensors"]
    assert fingerprint(loaded(model, tmp_path)) == second.after


def test_the_card_says_what_was_forgotten(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n\n# Animals\n\nAll about them.\n")
    model = configured("vit")
    first = edited(model, 2)
    save_forgotten(model, tmp_path, first)
    text = card(tmp_path)
    assert text.startswith("---\nlicense: mit\n---\n\n# Animals\n\nAll about them.\n")
    assert "| 2 | eel | not on record | by hand |" in text
    assert first.after in text
    (tmp_path / "README.md").write_text(text + "\nMore about them.\n")
    second = edited(model, 0)
    save_forgotten(model, tmp_path, second)
    text = card(tmp_path)
    assert text.count("## Forgotten classes") == 1
    assert "| 2 | eel |" in text
    assert "| 0 | cat |" in text
    assert first.after not in text
    assert second.after in text
    assert text.endswith("\nMore about them.\n")
    save_forgotten(model, tmp_path, second)
    assert card(tmp_path) == text


def test_a_folder_without_a_card_gets_one(tmp_path: Path) -> None:
    model = configured("vit")
    receipt = edited(model, 2)
    receipt = Receipt(**{**vars(receipt), "evidence": {"disconnected": 1.0, "output_depth": 12.0}, "rule": "a|b\n<c"})
    save_forgotten(model, tmp_path / "animals", receipt)
    assert card(tmp_path / "animals").startswith("# animals\n")
    assert "| 2 | eel | disconnected, 12.0 nats deep | a\\|b &lt;c |" in card(tmp_path / "animals")


def test_samples_have_a_row_of_their_own(tmp_path: Path) -> None:
    model = configured("vit")
    before = copy.deepcopy(model)
    edited(model, 2)
    save_forgotten(model, tmp_path, Receipt.between(before, model, rule="learn_to_unlearn"))
    assert "| samples | | not on record | learn_to_unlearn |" in card(tmp_path)
    assert history_of(tmp_path).forgotten == ()


def test_the_history_goes_on_in_the_folder(tmp_path: Path) -> None:
    model = configured("vit")
    first = edited(model, 2)
    save_forgotten(model, tmp_path, first)
    again = loaded(model, tmp_path)
    second, third = edited(again, 1), edited(again, 0)
    save_forgotten(again, tmp_path, [second, third])
    history = history_of(tmp_path)
    assert [edit.after for edit in history.edits] == [first.after, second.after, third.after]
    assert history.forgotten == (2, 1, 0)


def test_the_history_of_another_folder_is_given(tmp_path: Path) -> None:
    model = configured("vit")
    save_forgotten(model, tmp_path / "old", edited(model, 2))
    second = edited(model, 1)
    save_forgotten(model, tmp_path / "new", second, history=history_of(tmp_path / "old"))
    assert history_of(tmp_path / "new").forgotten == (2, 1)
    save_forgotten(model, tmp_path / "new", second, history=EditHistory())
    assert history_of(tmp_path / "new").forgotten == (1,)


def test_a_history_that_did_not_lead_here_is_not_taken_over(tmp_path: Path) -> None:
    model = configured("vit")
    save_forgotten(model, tmp_path, edited(model, 2))
    with torch.no_grad():
        next(model.parameters()).add_(1)  # a training, for instance
    save_forgotten(model, tmp_path, edited(model, 1))
    assert history_of(tmp_path).forgotten == (1,)


def test_the_audit_is_kept_and_an_old_one_is_not(tmp_path: Path) -> None:
    model = configured("vit")
    first = edited(model, 2)
    x, y = torch.randn(24, 1, 8, 8), torch.arange(24) % 4
    parts = [(x[y == 2], y[y == 2])], [(x[y != 2], y[y != 2])], [(x, y)]
    report = audit(model, *parts, relearning_steps=0)
    save_forgotten(model, tmp_path, first, audit=report)
    assert json.loads((tmp_path / AUDIT).read_text()) == report.describe()
    assert report.cannot_judge
    assert all(f"* cannot judge {limit}" in card(tmp_path) for limit in report.cannot_judge)
    second = edited(model, 1)
    with pytest.raises(ValueError, match="`audit` must be of the model that the edit left"):
        save_forgotten(model, tmp_path, second, audit=report)
    save_forgotten(model, tmp_path, second)
    assert not (tmp_path / AUDIT).exists()
    assert "cannot judge" not in card(tmp_path)


def test_the_processor_is_saved_too(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    words = Tokenizer(models.WordLevel({"[UNK]": 0, "cat": 1}, unk_token="[UNK]"))  # noqa: S106
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")  # noqa: S106
    model = configured("bert")
    save_forgotten(model, tmp_path, edited(model, 2), processor=tokenizer)
    assert transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)("cat")["input_ids"] == [1]


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "optimizer.pt", "adapter_model.safetensors", "checkpoint-5/model.safetensors"]
)
def test_old_weights_are_refused(tmp_path: Path, name: str) -> None:
    model = configured("vit")
    receipt = edited(model, 2)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    for file in (name, "training_args.bin", "model.safetensors"):
        (tmp_path / file).write_bytes(b"")
    with pytest.raises(ValueError, match=rf"`folder` must hold no weights from before the edit.*got \['{name}'\]:"):
        save_forgotten(model, tmp_path, receipt)
    assert not (tmp_path / HISTORY).exists()
    for number in range(4):
        (tmp_path / f"more-{number}.pth").write_bytes(b"")
    with pytest.raises(ValueError, match=r"got \['.*', '.*', '.*'\] and 2 more: remove them"):
        save_forgotten(model, tmp_path, receipt)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    model = configured("vit")
    receipt = edited(model, 2)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match=r"`folder` must be a folder, got a file, .*file"):
        save_forgotten(model, tmp_path / "file", receipt)
    assert (tmp_path / "file").read_text() == "mine"


class Adapted(nn.Linear):
    peft_config: Any = None


def refusals() -> list[tuple[Any, Any, dict[str, Any], type, str]]:
    model = configured("vit")
    first = edited(model, 2)
    second = edited(model, 1)
    return [
        (model, first, {}, ValueError, "`model` must be as this edit left it"),
        (model, [second, first], {}, ValueError, "`receipts` must follow each other, but 0 left the model"),
        (model, [], {}, ValueError, "`receipts` must hold at least one receipt, got none"),
        (model, "receipt", {}, TypeError, "`receipts` must be a receipt or a sequence of them, got str"),
        (model, {3}, {}, TypeError, "`receipts` must be a receipt or a sequence of them, got set"),
        (model, second, {"history": []}, TypeError, "`history` must be an EditHistory, got list"),
        (model, second, {"audit": "good"}, TypeError, "`audit` must be an AuditReport, got str"),
        (model, second, {"processor": len}, TypeError, "`processor` must have `save_pretrained`, got builtin"),
        (nn.Linear(2, 2), second, {}, TypeError, "`model` must be a model of transformers or timm, got Linear"),
        (Adapted(2, 2), second, {}, ValueError, "`model` must be saved whole, got one with adapters"),
        (len, second, {}, TypeError, "`model` must be a torch.nn.Module, got builtin"),
    ]


@pytest.mark.parametrize("number", range(11))
def test_refusals_write_nothing(tmp_path: Path, number: int) -> None:
    model, receipts, settings, error, text = refusals()[number]
    with pytest.raises(error, match=text):
        save_forgotten(model, tmp_path / "folder", receipts, **settings)
    assert not list(tmp_path.iterdir())


def test_every_refusal_is_tried() -> None:
    assert len(refusals()) == 11


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("no JSON", "it must be a JSON object with a version"),
        ('{"version": 9, "edits": []}', "its version is 9"),
        ('{"version": 1, "edits": [{}]}', "must have the fields"),
    ],
)
def test_a_history_that_cannot_be_read(tmp_path: Path, text: str, error: str) -> None:
    (tmp_path / HISTORY).write_text(text)
    with pytest.raises(ValueError, match=rf"`.*{HISTORY}` cannot be read: .*{error}"):
        history_of(tmp_path)


def test_a_folder_without_a_history(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    assert history_of(tmp_path) == EditHistory()
    assert NAMES[2] == "eel"
