"""The examples of docs/guide/your-model.md run as written, with a checkpoint of transformers and its texts."""

import re
import shlex
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from cli.command_line import CommandLine

import fastforget

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "guide" / "your-model.md"

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

Rows = list[tuple[str, int]]


def paragraphs(monkeypatch: pytest.MonkeyPatch) -> tuple[Rows, Rows, tuple[str, ...]]:
    """Return paragraphs of documentation with the number of the library that they are from, and their names."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks" / "quality")
    docstrings = __import__("docstrings")
    monkeypatch.delitem(sys.modules, "docstrings")
    names = docstrings.LIBRARIES[:6]
    both = [docstrings.collect(library) for library in names]
    train, test = (
        [(" ".join(words), cls) for cls, parts in enumerate(both) for words in parts[place][:: (4, 5)[place]]]
        for place in (0, 1)
    )
    return train, test, names


def make_tokenizer(train: Rows) -> Any:
    words = Counter(word for text, _ in train for word in text.split())
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    known = [*special.values(), *(word for word, _ in words.most_common(2000))]
    numbers = {word: number for number, word in enumerate(known)}
    whole = tokenizers.Tokenizer(tokenizers.models.WordLevel(numbers, special["unk_token"]))
    whole.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=whole, **special)


def make_model(words: int, names: tuple[str, ...]) -> Any:
    config = transformers.DistilBertConfig(
        vocab_size=words, dim=64, hidden_dim=128, n_layers=2, n_heads=4, max_position_embeddings=64,
        id2label=dict(enumerate(names)), label2id={name: cls for cls, name in enumerate(names)},
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.AutoModelForSequenceClassification.from_config(config)


def train_model(model: Any, tokenizer: Any, rows: Rows) -> None:
    optimizer = torch.optim.AdamW(model.train().parameters(), 2e-3)
    for _ in range(4):
        order = torch.randperm(len(rows)).tolist()
        for start in range(0, len(rows), 50):
            texts, labels = zip(*(rows[row] for row in order[start : start + 50]), strict=True)
            inputs = tokenizer(list(texts), padding=True, return_tensors="pt")
            optimizer.zero_grad()
            model(**inputs, labels=torch.tensor(labels)).loss.backward()
            optimizer.step()
    model.eval()


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    train, test, names = paragraphs(monkeypatch)
    tokenizer = make_tokenizer(train)
    model = make_model(len(tokenizer), names)
    train_model(model, tokenizer, train)
    model.save_pretrained("my-model")
    tokenizer.save_pretrained("my-model")

    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (_, forget), (_, undo), (_, factory), (_, save), (_, session) = blocks
    assert len([line for line in forget.splitlines() if line.strip()]) <= 20
    found: dict[str, Any] = {"train": train, "test": test}
    exec(forget, found)  # noqa: S102 (our own page)
    receipt, report = found["receipt"], found["report"]
    assert receipt.claims == ("disconnected", "dispersed")
    rest = report.metrics["test accuracy"]
    assert rest.original > 0.5  # of five classes
    assert rest.value >= rest.original - 0.03
    assert report.per_class["original"][3] > 0.5
    assert report.per_class["model"][3] <= 0.02
    assert "linear probe" in capsys.readouterr().out
    without = transformers.AutoModelForSequenceClassification.from_pretrained("without-3")
    assert fastforget.fingerprint(without) == receipt.after
    assert without.config.id2label[3] == names[3]

    exec(undo, found)  # noqa: S102
    again = transformers.AutoModelForSequenceClassification.from_pretrained("my-model-again")
    assert fastforget.fingerprint(again) == receipt.before == fastforget.fingerprint(model)

    Path(factory.splitlines()[0].removeprefix("# ")).write_text(factory)
    exec(save, found)  # noqa: S102
    copied, command = (shlex.split(line) for line in session.replace("\\\n", " ").splitlines())
    assert copied == ["$", "cp", "-r", "my-model", "edited"]
    shutil.copytree("my-model", "edited")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "network", raising=False)  # of another test's folder
    outcome = CommandLine(monkeypatch, capsys)(*command[2:])  # transformers shows progress on standard error
    assert outcome.status == 0
    assert outcome.out.startswith(f"forgot class 3 ({names[3]}): disconnected")
    edited = transformers.AutoModelForSequenceClassification.from_pretrained("edited")
    assert fastforget.fingerprint(edited) == receipt.after
