"""What people get wrong, and what they are told: the name of the argument, what it must be, and what to do."""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import known_codes
import pytest
import torch
from torch import Tensor, nn

import fastforget as ff
from fastforget import MnemonicCodes, Receipt

X, Y = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 4


class Given:
    """A model, its codes, the model without class 3, the receipt of that, and a folder of files."""

    def __init__(self, folder: Path) -> None:
        self.model, self.codes = known_codes.model_with_codes()
        self.edited = copy.deepcopy(self.model)
        self.receipt = ff.one_shot(self.edited, self.codes, 3)
        self.frozen = copy.deepcopy(self.model)
        next(self.frozen.parameters()).requires_grad_(requires_grad=False)
        self.folder = folder
        torch.save(self.model.state_dict(), folder / "net.pt")
        torch.save(self.model.state_dict(), folder / "old.pt", _use_new_zipfile_serialization=False)
        self.receipt.save(folder / "receipt.safetensors")
        self.codes.save(folder / "codes.safetensors")
        (folder / "text.safetensors").write_text("hello")
        (folder / "empty.safetensors").touch()

    def one_shot(self, *, model: Any = None, codes: Any = "own", cls: Any = 3, **settings: Any) -> object:
        """Call it with what is usual but for what is named."""
        return ff.one_shot(model or self.model, self.codes if codes == "own" else codes, cls, **settings)


Call = Callable[[Given], object]
CONVERT = "it seems to be of torch.save, which can hold code and is not read. Convert with safetensors.torch.save_file("
WRONG: dict[str, tuple[Call, type[Exception], str]] = {
    # the model
    "in train mode": (
        lambda g: g.one_shot(model=copy.deepcopy(g.model).train()),
        ValueError, "`model` must be in eval mode, got module 'Sequential' in train mode; call model.eval() first",
    ),
    "a state dict": (
        lambda g: g.one_shot(model=g.model.state_dict()),
        TypeError, "`model` must be a torch.nn.Module, got OrderedDict; load it into its module first",
    ),
    "a path": (lambda g: g.one_shot(model="net.pt"), TypeError, "`model` must be a torch.nn.Module, got str"),
    "a frozen layer": (
        lambda g: g.one_shot(model=g.frozen),
        ValueError, "parameter `0.weight` is frozen (requires_grad=False); name the parameters to work on",
    ),
    "one output": (
        lambda g: g.one_shot(model=nn.Linear(6, 1).eval()),
        ValueError, "`mnemonic_codes` must have one class per output of the model, got 4 classes",
    ),
    "model and codes swapped": (
        lambda g: ff.one_shot(g.codes, g.model, 3),  # type: ignore[arg-type]
        TypeError, "`model` must be a torch.nn.Module, got MnemonicCodes",
    ),
    "the fingerprint of a state dict": (
        lambda g: ff.fingerprint(g.model.state_dict()),  # type: ignore[arg-type]
        TypeError, "`model` must be a torch.nn.Module, got OrderedDict",
    ),
    # the class
    "no such class": (lambda g: g.one_shot(cls=7), ValueError, "`cls` must lie in [0, 4), got [7]"),
    "a class by name": (
        lambda g: g.one_shot(cls="3"), TypeError, "`cls` must be an int or a sequence of ints, got '3'",
    ),
    "half a class": (lambda g: g.one_shot(cls=3.5), TypeError, "`cls` must be an int or a sequence of ints, got 3.5"),
    "a class twice": (lambda g: g.one_shot(cls=[3, 3]), ValueError, "`cls` must name each class once, got [3, 3]"),
    "every class": (
        lambda g: g.one_shot(cls=[0, 1, 2, 3]),
        ValueError, "`cls` must leave at least one of 4 classes, got all of them",
    ),
    "no class": (lambda g: g.one_shot(cls=[]), ValueError, "`cls` must name at least one class, got none"),
    "what was forgotten already": (
        lambda g: g.one_shot(model=copy.deepcopy(g.edited)),
        ff.UnrecognisedCodesError, "class 3 seems to be forgotten already",
    ),
    "what is said to be forgotten already": (
        lambda g: g.one_shot(forgotten=[3]),
        ValueError, "`cls` must not name classes that were forgotten earlier, got [3]",
    ),
    # the codes
    "neither codes nor samples": (
        lambda g: g.one_shot(codes=None),
        ValueError, "`mnemonic_codes` must be given without `samples`, got None",
    ),
    "the path of codes": (
        lambda g: g.one_shot(codes="codes.safetensors"),
        TypeError, "`mnemonic_codes` must be MnemonicCodes or a tensor, got str; read a file with MnemonicCodes.load",
    ),
    "codes of another model": (
        lambda g: g.one_shot(codes=MnemonicCodes.generate(4, (6,), seed=9)),
        ff.UnrecognisedCodesError, "`mnemonic_codes` must be known to the model, but it recognises",
    ),
    "codes of another shape": (
        lambda g: g.one_shot(codes=MnemonicCodes.generate(4, (5,))),
        ValueError, "`mnemonic_codes` must be what the model's forward takes, got samples of shape (5,)",
    ),
    "codes of more classes": (
        lambda g: g.one_shot(codes=MnemonicCodes.generate(5, (6,))),
        ValueError, "`mnemonic_codes` must have one class per output of the model, got 5 classes",
    ),
    "targets beyond the codes": (
        lambda g: g.codes.embed(X, Y + 3), ValueError, "`targets` must be in [0, 4), got values from 3 to 6",
    ),
    "a rate in percent": (lambda g: g.codes.embed(X, Y, rate=30), ValueError, "`rate` must be in [0, 1], got 30"),
    "inputs unlike the codes": (
        lambda g: g.codes.embed(X[:, :5], Y),
        ValueError, "`inputs` must have shape (40, 6), for these targets and codes",
    ),
    # samples and settings
    "samples without targets": (
        lambda g: g.one_shot(codes=None, samples=X),
        TypeError, "`samples` must be (inputs, targets), or (inputs, None) without labels, got Tensor",
    ),
    "one-hot targets": (
        lambda g: g.one_shot(codes=None, samples=(X, nn.functional.one_hot(Y, 4))),
        TypeError, "the targets of `samples` must be torch.int64 [N], or None, got torch.int64 (40, 4)",
    ),
    "targets in floating point": (
        lambda g: g.one_shot(codes=None, samples=(X, Y.float())),
        TypeError, "the targets of `samples` must be torch.int64 [N], or None, got torch.float32 (40,)",
    ),
    "fewer targets than inputs": (
        lambda g: g.one_shot(codes=None, samples=(X, Y[:5])),
        ValueError, "`targets` must have the batch size (40,) first, got shape (5,)",
    ),
    "an unknown rule": (
        lambda g: g.one_shot(rule="fast"), ValueError, "`rule` must be \"natural\" or \"paper\", got 'fast'",
    ),
    "an unknown level": (
        lambda g: g.one_shot(level="deep"), ValueError, '`level` must be "output", "body", "features"',
    ),
    "features without samples": (
        lambda g: g.one_shot(level="features"), ValueError, '`level="features"` needs `samples=(inputs, targets)`',
    ),
    "a share in percent": (lambda g: g.one_shot(rho=30), ValueError, "`rho` must lie in (0, 1], got 30"),
    "a floor in percent": (
        lambda g: g.one_shot(floor=(X, Y, 95)), ValueError, "the accuracy of `floor` must lie in [0, 1], got 95",
    ),
    # receipts and files
    "to revert another model": (
        lambda g: g.receipt.revert(copy.deepcopy(g.model)), ValueError, "`model` must be as this edit left it",
    ),
    "to apply a receipt twice": (
        lambda g: g.receipt.apply(g.edited), ValueError, "`model` must be the one this edit was made on",
    ),
    "to revert without old values": (
        lambda g: g.receipt.without_undo().revert(g.edited),
        ValueError, "this receipt must hold the old values to be reverted; it was made with undo=False",
    ),
    "a checkpoint of torch.save as a receipt": (lambda g: Receipt.load(g.folder / "net.pt"), ValueError, CONVERT),
    "one of an old torch.save as codes": (lambda g: MnemonicCodes.load(g.folder / "old.pt"), ValueError, CONVERT),
    "a receipt as codes": (
        lambda g: MnemonicCodes.load(g.folder / "receipt.safetensors"),
        ValueError, "the header's `format` must be 'fastforget.codes', got 'fastforget.receipt'",
    ),
    "codes as a receipt": (
        lambda g: Receipt.load(g.folder / "codes.safetensors"),
        ValueError, "the header's `format` must be 'fastforget.receipt', got 'fastforget.codes'",
    ),
    "a text": (
        lambda g: Receipt.load(g.folder / "text.safetensors"), ValueError, "not a complete safetensors file",
    ),
    "an empty file": (
        lambda g: Receipt.load(g.folder / "empty.safetensors"), ValueError, "not a complete safetensors file",
    ),
    "a file that is not there": (
        lambda g: Receipt.load(g.folder / "none.safetensors"), FileNotFoundError, "none.safetensors",
    ),
    # the other calls
    "an audit of inputs alone": (
        lambda g: ff.audit(g.model, X, X, X),  # type: ignore[arg-type]
        TypeError, "`forget` must be batches (inputs, targets), a pair of both, or a data set",
    ),
    "an audit without tests of the class": (
        lambda g: ff.audit(g.model, (X[Y == 3], Y[Y == 3]), (X[Y < 3], Y[Y < 3]), (X[Y < 3], Y[Y < 3])),
        ValueError, "`test` must hold samples of every class to forget, got none of [3]",
    ),
    "an audit beside a model of other classes": (
        lambda g: ff.audit(g.model, (X, Y), (X, Y), (X, Y), original=nn.Linear(6, 5)),
        ValueError, "models must have the same number of classes, got {'model': 4, 'original': 5}",
    ),
    "nothing to unlearn": (
        lambda g: ff.learn_to_unlearn(g.model, [], (X, Y)),
        ValueError, "`forget` must hold at least one batch, got none",
    ),
    "to unlearn in train mode": (
        lambda g: ff.learn_to_unlearn(copy.deepcopy(g.model).train(), (X, Y), (X, Y)),
        ValueError, "`model` must be in eval mode",
    ),
    "to inscribe from inputs alone": (
        lambda g: ff.inscribe(g.model, g.codes, X),  # type: ignore[arg-type]
        TypeError, "`data` must be batches (inputs, targets), a pair of both, or a data set",
    ),
    "a baseline with a batch in two": (
        lambda g: ff.baselines.ssd(g.model, X, Y),  # type: ignore[arg-type]
        TypeError, "`forget` must be batches (inputs, targets), a pair of both, or a data set",
    ),
    "a Fisher of other classes": (
        lambda g: ff.fisher_diagonal(g.model, X, Y + 1),
        ValueError, "`targets` must be classes of the model, in [0, 4): Target 4 is out of bounds",
    ),
    "k beyond what there is": (
        lambda _: ff.topk_mask(torch.randn(5), 9), ValueError, "`k` must lie in [1, 5], got 9",
    ),
    "gradients of other parameters": (
        lambda _: ff.harmonize({"a": X}, {"b": X}),
        ValueError, "`remain_grads` must have a tensor for each of `forget_grads` and no other, got no 'a'",
    ),
    "gradients of other shapes": (
        lambda _: ff.harmonize([X], [X[:3]]),
        ValueError, "`remain_grads[0]` must be like that of `forget_grads`, torch.float32 of shape (40, 6)",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    return Given(tmp_path_factory.mktemp("files"))


def test_there_are_forty() -> None:
    assert len(WRONG) >= 40


@pytest.mark.parametrize("name", WRONG)
def test_what_a_wrong_call_is_told(given: Given, name: str) -> None:
    call, kind, text = WRONG[name]
    models = (given.model, given.edited, given.frozen)
    before = [ff.fingerprint(model) for model in models]
    with pytest.raises(kind, match=re.escape(text)) as caught:
        call(given)
    assert type(caught.value) is kind
    assert [ff.fingerprint(model) for model in models] == before


def test_a_misspelt_name_is_put_right() -> None:
    """With what Python needs for its "Did you mean: 'one_shot'"."""
    with pytest.raises(AttributeError, match="has no attribute 'oneshot'") as caught:
        ff.oneshot  # noqa: B018
    assert caught.value.name == "oneshot"
    assert caught.value.obj is ff
    assert "one_shot" in dir(ff)


def test_what_the_remedy_says_works(given: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command in the error makes a file that holds the same tensors."""
    import safetensors.torch

    monkeypatch.chdir(given.folder)
    with pytest.raises(ValueError, match="Convert with") as caught:
        Receipt.load("net.pt")
    command = str(caught.value).partition("Convert with ")[2]
    exec(command, {"torch": torch, "safetensors": safetensors})  # noqa: S102 (our own text)
    loaded: dict[str, Tensor] = safetensors.torch.load_file("net.safetensors")
    assert {name: bool((value == given.model.state_dict()[name]).all()) for name, value in loaded.items()} == (
        dict.fromkeys(given.model.state_dict(), True)
    )
