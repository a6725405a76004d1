"""Arrows run one way: no import up the floors of the package, no circle, no module hidden by a function's name."""

from pathlib import Path

from architecture.imports import FLOORS, circle, graph, private, set_from_outside, shadowed, sources, upward

import fastforget

SOURCES = sources(Path(fastforget.__file__).parent)


def test_every_room_has_a_floor() -> None:
    rooms = {name.split(".")[1] for name in SOURCES if "." in name} - {"__main__"}
    assert rooms == {room for floor in FLOORS for room in floor}


def test_no_import_runs_up() -> None:
    assert upward(graph(SOURCES)) == []


def test_no_files_import_each_other_in_a_circle() -> None:
    assert circle(graph(SOURCES)) == []


def test_no_module_is_hidden_by_what_its_package_exports() -> None:
    assert shadowed(SOURCES) == []


def test_an_upward_import_is_found_wherever_it_stands() -> None:
    for line in (
        "from fastforget.serving.live import LiveModel",
        "from fastforget.serving import live",
        "import fastforget.serving.live",
        "def later():\n    from fastforget.serving.live import LiveModel",
        "if TYPE_CHECKING:\n    from fastforget.serving.live import LiveModel",
    ):
        texts = {"fastforget.ops.fisher": line, "fastforget.serving": "", "fastforget.serving.live": ""}
        assert upward(graph(texts)) == ["fastforget.ops.fisher -> fastforget.serving.live"]


def test_neighbours_on_a_floor_do_not_import_each_other_nor_the_face() -> None:
    texts = {
        "fastforget": "",
        "fastforget.codes": "import fastforget\nfrom fastforget.edits import Edit",
        "fastforget.edits": "",
    }
    assert upward(graph(texts)) == ["fastforget.codes -> fastforget", "fastforget.codes -> fastforget.edits"]


def test_a_circle_is_found() -> None:
    texts = {"fastforget.ops.a": "from fastforget.ops import b", "fastforget.ops.b": "import fastforget.ops.a"}
    assert set(circle(graph({**texts, "fastforget.ops": ""}))) == set(texts)


def test_a_hidden_module_is_found() -> None:
    texts = {"fastforget": "from fastforget.audit.run import audit", "fastforget.audit": "", "fastforget.audit.run": ""}
    assert shadowed(texts) == ["fastforget.audit"]
    assert shadowed({**texts, "fastforget": "from fastforget import audit"}) == []


def test_no_private_name_is_imported() -> None:
    assert private(SOURCES) == []
    assert private({"fastforget.a": "from fastforget.b import _c, d"}) == ["fastforget.a: _c"]


def test_nobody_sets_the_attributes_of_others_behind_their_back() -> None:
    # A user's compiled module is run as it was written, which PyTorch has no other way for.
    assert set(set_from_outside(SOURCES)) <= {"fastforget.classifier.compilation: vars(module)"}
    bad = "vars(x)['a'] = 1\nvars(x).update(a=1)\nvars(self).update(a=1)\nprint(vars(x)['a'])"
    assert set_from_outside({"fastforget.a": bad}) == 2 * ["fastforget.a: vars(x)"]
