"""Names of classes in the configuration of a model."""

from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from fastforget.classifier.class_names import class_names, list_classes, name_class, read_names


def configured(labels: Any) -> nn.Module:
    model = nn.Linear(2, 3)
    model.config = SimpleNamespace(id2label=labels)  # type: ignore[assignment]
    return model


@pytest.mark.parametrize("labels", [{1: "dog", 0: "cat", 2: "eel"}, {"0": "cat", "1": "dog", "2": "eel"}])
def test_names_in_the_order_of_the_classes(labels: Any) -> None:
    assert class_names(configured(labels)) == ["cat", "dog", "eel"]
    assert class_names(nn.DataParallel(configured(labels))) == ["cat", "dog", "eel"]


@pytest.mark.parametrize("labels", [None, {}, ["cat", "dog"], {0: "LABEL_0", 1: "LABEL_1"}, {0: "cat", 2: "eel"}])
def test_no_names(labels: Any) -> None:
    assert class_names(configured(labels)) is None


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"label_names": ("n1", "n2")}, ["n1", "n2"]),
        ({"label_names": {"1": "n2", "0": "n1"}}, ["n1", "n2"]),
        ({"label_names": ["n1", "n2"], "label_descriptions": {"n1": "cat"}}, ["cat", "n2"]),
        ({"label_names": {"0": "n1", "2": "n2"}}, None),
        ({"label_names": "n1"}, None),
        ({}, None),
        (None, None),
    ],
)
def test_names_in_the_settings_of_timm(settings: Any, names: list[str] | None) -> None:
    model = nn.Linear(2, 2)
    model.pretrained_cfg = settings
    assert class_names(model) == names
    model.num_classes = 2
    assert class_names(model) == names
    model.num_classes = 3  # the names are those of another output layer
    assert class_names(model) is None


def test_a_model_without_configuration() -> None:
    assert class_names(nn.Linear(2, 3)) is None


def test_a_class_is_printed_with_its_name() -> None:
    names = ["cat", "", "eel"]
    assert [name_class(cls, names) for cls in range(4)] == ["0 (cat)", "1", "2 (eel)", "3"]
    assert name_class(2, None) == "2"
    assert list_classes([2, 3], names) == ["eel", None]
    assert list_classes([2, 3], None) == [None, None]


def test_names_that_a_caller_gives() -> None:
    assert read_names(None) is None
    assert read_names(["cat", "dog"]) == ("cat", "dog")
    for given, text in (("cat", "'cat'"), (3, "int"), ({0: "cat"}, "dict"), ([0, 1], "list")):
        with pytest.raises(TypeError, match=rf"^`names` must be the names of classes .* in a list of str, got {text}$"):
            read_names(given)
