"""Wrong configurations are refused by name, before any training."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparison.small import MINE, TEST, TRAIN, network, nothing, run
from safetensors.torch import save_file
from torch import nn

WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "a missing seed": ({"seeds": None}, ValueError, "the configuration must have `seeds`: different integers"),
    "no seeds": ({"seeds": []}, ValueError, "`seeds` must be different integers of at least 0, as a list, got []"),
    "a seed twice": ({"seeds": [1, 1]}, ValueError, "`seeds` must be different integers of at least 0, as a list, got"),
    "an unknown key": (
        {"sead": [1]}, ValueError,
        "methods, oracles, output, measures, audit, got 'sead'; did you mean 'seeds'?",
    ),
    "a key elsewhere": ({"relearning_steps": 3}, ValueError, "got 'relearning_steps'; it belongs to `audit`"),
    "an unknown key below": (
        {"data": {"train": TRAIN, "test": TEST, "unsen": TEST}}, ValueError,
        "`data` must have no other keys than train, test, unseen, codes, got 'unsen'; did you mean 'unseen'?",
    ),
    "no table": ({"model": 3}, ValueError, "`model` must be a table, got 3"),
    "an unknown method": (
        {"methods": [{"method": "finetune"}]}, ValueError,
        "got 'finetune'; did you mean 'fine_tune'?",
    ),
    "retrain": (
        {"methods": [{"method": "retrain"}]}, ValueError,
        "`methods[0].method` must be another method, got 'retrain': `oracles` says how many are trained again",
    ),
    "no method": ({"methods": []}, ValueError, "`methods` must be a list of tables, got []"),
    "a method without a name": (
        {"methods": [{"epochs": 1}]}, ValueError,
        "`methods[0]` must have `method`: the name of a method, or 'package.module:function', got epochs",
    ),
    "a setting that it does not take": (
        {"methods": [{"method": nothing}, {"method": "fine_tune", "epoch": 1}]}, ValueError,
        "fine_tuning:fine_tune, which are epochs, lr, seed, got 'epoch'; did you mean 'epochs'?",
    ),
    "data as a setting": (
        {"methods": [{"method": "ssd", "everything": 1}]}, ValueError,
        "which are alpha, lam, square, got 'everything'",
    ),
    "a setting of one_shot": (
        {"methods": [{"method": "one_shot", "rh": 0.1}]}, ValueError, "got 'rh'; did you mean 'rho'?",
    ),
    "a setting with a wrong value": (
        {"methods": [{"method": "fine_tune", "epochs": 0}]}, ValueError,
        "`methods[0]`, fine_tune: `epochs` must be at least 1, got 0",
    ),
    "a setting of the wrong type": (
        {"methods": [{"method": "fine_tune", "lr": "0.1"}]}, TypeError,
        "`methods[0]`, fine_tune: `lr` must be a number, got str",
    ),
    "a value of one_shot": (
        {"methods": [{"method": "one_shot", "rho": 2.0}]}, ValueError,
        "`methods[0]`, one_shot: `rho` must lie in (0, 1], got 2.0",
    ),
    "a value of learn_to_unlearn": (
        {"methods": [{"method": "learn_to_unlearn", "order": 3}]}, ValueError,
        "`methods[0]`, learn_to_unlearn: `order` must be one of 1, 2, got 3",
    ),
    "a setting that is a table": (
        {"methods": [{"method": "fine_tune", "lr": {}}]}, ValueError,
        "`methods[0].lr` must be a number, a text, true, false or a list of them, got {}",
    ),
    "a setting that is missing": (
        {"methods": [{"method": "mine:method"}]}, ValueError,
        "`methods[0]` must have `by`, which mine:method needs, got none",
    ),
    "a method twice": (
        {"methods": [{"method": "ssd"}, {"method": "ssd", "alpha": 1.0}]}, ValueError,
        "`methods[1]` must have a `name` of its own, got 'ssd'",
    ),
    "two lambdas": (
        {"methods": [{"method": lambda *_: None, "name": name} for name in "ab"]}, ValueError,
        "`methods[1]` must name a function that others are told from, got a second ",
    ),
    "a method called as a reference": (
        {"methods": [{"method": "ssd", "name": "retrained 2"}]}, ValueError,
        "`methods[0]` must have a `name` of its own, got 'retrained 2'",
    ),
    "a module that is missing": (
        {"methods": [{"method": "nowhere:method"}]}, ImportError,
        "`methods[0].method` must name a module that can be imported, got 'nowhere'",
    ),
    "a function that is missing": (
        {"model": {"make": "mine:net"}}, ImportError, "`model.make` must name a function of module mine, got 'net'",
    ),
    "no function": (
        {"methods": [{"method": "mine:number"}]}, TypeError, "`methods[0].method` must name a function, got 'mine:n",
    ),
    "a function of one argument": (
        {"methods": [{"method": "mine:one"}]}, TypeError,
        "`methods[0]` must name a function of 3 arguments and settings, got mine:one",
    ),
    "one_shot for samples": (
        {"methods": [{"method": "one_shot"}], "forget": {"share": 0.1}}, ValueError,
        "`methods[0]` must be a method for samples, got one_shot, which forgets whole classes",
    ),
    "membership models of nothing": (
        {"methods": [{"method": "learn_to_unlearn", "membership": True}]}, ValueError,
        "`methods[0]` has `membership`, which needs samples in `data.unseen`, got none",
    ),
    "a class that is not there": (
        {"forget": {"classes": [1, 12]}}, ValueError,
        "`forget.classes` must be classes of `data.train`, [0, 1, 2, 3], got 12",
    ),
    "twice the same class": (
        {"forget": {"classes": [1, 1]}}, ValueError, "`forget.classes` must be different classes, as a list, got [1",
    ),
    "all classes": (
        {"forget": {"classes": [0, 1, 2, 3]}}, ValueError,
        "`forget` must leave some samples and take some, got 160 of 160",
    ),
    "a sample that is not there": (
        {"forget": {"samples": [3, 160]}}, ValueError, "`forget.samples` must be places in `data.train` of 160, got 1",
    ),
    "a share of all": ({"forget": {"share": 1.0}}, ValueError, "`forget.share` must be a number between 0 and 1, got"),
    "nothing to forget": ({"forget": {}}, ValueError, "`forget` must have one of the keys classes, samples, share"),
    "two things to forget": (
        {"forget": {"classes": [1], "share": 0.1}}, ValueError,
        "`forget` must have one of the keys classes, samples, share, got classes, share",
    ),
    "a class that is not tested": (
        {"data": {"train": TRAIN, "test": (TEST[0][TEST[1] != 2], TEST[1][TEST[1] != 2])}}, ValueError,
        "`data.test` must have samples of every class to forget, got none of [2]",
    ),
    "only a class that is gone is tested": (
        {"data": {"train": TRAIN, "test": (TEST[0][TEST[1] == 2], TEST[1][TEST[1] == 2])}}, ValueError,
        "`data.test` must have samples of classes that remain, got none of [0, 1, 3]",
    ),
    "a file that is missing": (
        {"data": {"train": "no.npz", "test": TEST}}, FileNotFoundError,
        "`data.train` must be a file that exists, got ",
    ),
    "a file of another kind": (
        {"data": {"train": "train.csv", "test": TEST}}, ValueError,
        "`data.train` must be a file .npz or .safetensors, or 'package.module:function', got 'train.csv'",
    ),
    "a file without targets": (
        {"data": {"train": "inputs.npz", "test": TEST}}, ValueError,
        "`data.train` must hold `targets`, the classes of the samples, got ['inputs'] in ",
    ),
    "a file that is not whole": (
        {"data": {"train": "broken.safetensors", "test": TEST}}, ValueError,
        "`data.train` must be a complete safetensors file, got ",
    ),
    "a pickle": (
        {"data": {"train": "objects.npz", "test": TEST}}, ValueError,
        "`data.train` must be a complete file of arrays without objects, got ",
    ),
    "data that fails": (
        {"data": {"train": "mine:fails", "test": TEST}}, RuntimeError, "`data.train` failed: KeyError: 'disk'",
    ),
    "no data": ({"data": {"train": "mine:no_samples", "test": TEST}}, TypeError, "`data.train` must be batches (inp"),
    "data of another shape": (
        {"data": {"train": "mine:wide", "test": TEST}}, ValueError,
        "`data.train` must be what the model's forward takes, got samples of shape (7,)",
    ),
    "targets beyond the classes": (
        {"data": {"train": (TRAIN[0], TRAIN[1] + 2), "test": (TEST[0], TEST[1] + 2)}}, ValueError,
        "targets of `data.train` must be in [0, 4), got 2 to 5",
    ),
    "data that is not finite": (
        {"data": {"train": TRAIN, "test": (TEST[0] / 0, TEST[1])}}, ValueError,
        "inputs of `data.test` must be finite, got NaN or infinity",
    ),
    "data of two lengths": (
        {"data": {"train": (TRAIN[0], TRAIN[1][1:]), "test": TEST}}, ValueError,
        "`data.train`: `targets` must have the batch size (160,) first, got shape (159,)",
    ),
    "no samples": (
        {"data": {"train": TRAIN, "test": (TEST[0][:0], TEST[1][:0])}}, ValueError,
        "`data.test`: `inputs` must not be empty, got shape (0, 30)",
    ),
    "a factory without parameters": (
        {"model": {"make": "mine:untrainable"}}, ValueError, "`model.make` must return a module with parameters, got",
    ),
    "a factory that makes something else": (
        {"model": {"make": "mine:no_samples"}}, TypeError, "`model.make` must return a torch.nn.Module, got int",
    ),
    "a factory that fails": ({"model": {"make": "mine:fails"}}, RuntimeError, "`model.make` mine:fails failed: Key"),
    "no training": (
        {"training": None}, ValueError, "the configuration must have `training`, or the file of the original in",
    ),
    "training without epochs": (
        {"training": {"lr": 0.1}}, ValueError,
        "`training` must have `epochs`, which fastforget.comparison.recipe:train needs, got none",
    ),
    "training with a wrong value": (
        {"training": {"epochs": 0}}, ValueError, "`training`: `epochs` must be at least 1, got 0",
    ),
    "no references": (
        {"training": None, "model": {"make": network, "checkpoint": "net.safetensors"}}, ValueError,
        "the configuration must have `training`, files of references in `model.retrained`, or `oracles = 0`",
    ),
    "a checkpoint that is missing": (
        {"model": {"make": network, "checkpoint": "net-{seed}.safetensors"}}, FileNotFoundError,
        "`model.checkpoint` must be a file that exists, got ",
    ),
    "a checkpoint of another network": (
        {"model": {"make": network, "checkpoint": "inputs.safetensors"}}, ValueError,
        "`model.checkpoint` must be a checkpoint of what `model.make` makes, got ",
    ),
    "references twice": (
        {"oracles": 2, "model": {"make": network, "retrained": ["net.safetensors"]}}, ValueError,
        "`oracles` must be left out where `model.retrained` has the files of the references",
    ),
    "an unknown measure": (
        {"measures": ["linear prob"]}, ValueError, "got 'linear prob'; did you mean 'linear probe'?",
    ),
    "codes that are missing": (
        {"data": {"train": TRAIN, "test": TEST, "codes": "codes.safetensors"}}, FileNotFoundError,
        "`data.codes` must be a file that exists, got ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_refused_before_any_training(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    changes, kind, text = WRONG[name]
    (folder / "mine.py").write_text(MINE)
    np.savez(folder / "inputs.npz", inputs=TRAIN[0].numpy())
    np.savez(folder / "objects.npz", inputs=np.array([{}], dtype=object), targets=np.zeros(1, int))
    save_file({"inputs": TRAIN[0].clone()}, folder / "inputs.safetensors")
    save_file(network().state_dict(), folder / "net.safetensors")
    (folder / "broken.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    trained: list[nn.Module] = []
    monkeypatch.setattr("fastforget.comparison.recipe.retrain", lambda model, *_, **__: trained.append(model))
    with pytest.raises(kind, match=re.escape(text)):
        run(folder / "output", **changes)
    assert trained == []
    assert not (folder / "output").exists()
