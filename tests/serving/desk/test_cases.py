"""What became of requests: deadlines, what was undone, and what can be."""

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from fastforget.serving.desk.cases import Cases, check_deadline
from fastforget.serving.history.entries import Entry, Version, versions
from fastforget.serving.history.requests import Request

BEGIN = datetime(2026, 5, 3, tzinfo=timezone.utc)


def at(days: float) -> str:
    return (BEGIN + timedelta(days=days)).isoformat()


def entry(number: int, name: str, **fields: Any) -> Entry:
    return Entry(number, "revert" if "to" in fields else "forget", "a", "b", at(number), request=name, **fields)


def done(name: str, version: int) -> Request:
    return Request(name, (version,), "a person", at(0), "done", version)


ENTRIES = [
    entry(1, "one", classes=(1,), undo=at(31), audit={"accuracy": 0.9}),
    entry(2, "two", classes=(2,), undo=at(12)),
    entry(3, "back", to=1, asked_by="an officer: the wrong person"),
    entry(4, "four", classes=(4,)),
]
REQUESTS = [done("one", 1), done("two", 2), Request("three", (3,), "", at(0)), done("four", 4)]
VERSIONS = versions([Version(0, "a", at(0))], ENTRIES)


def cases(days: float = 5, count: int = 4) -> Cases:
    return Cases(REQUESTS, ENTRIES, VERSIONS[: count + 1], 30, BEGIN + timedelta(days=days))


def test_states_and_deadlines() -> None:
    found = cases().all()
    assert [one["state"] for one in found] == ["done", "reverted", "waiting", "done"]
    assert {one["deadline"] for one in found} == {"2026-06-02T00:00:00.000+00:00"}
    assert [one["done"] for one in found] == [at(1), at(2), None, at(4)]
    assert found[0]["audit"] == {"accuracy": 0.9}
    assert found[1]["reverted"] == {"time": at(3), "version": 3, "asked_by": "an officer: the wrong person"}
    assert [one["reverted"] for one in found if one["name"] != "two"] == [None] * 3


def test_what_can_be_undone_and_what_would_be_with_it() -> None:
    """The edits made later are undone too, so the old values of all must be kept."""

    def undo(name: str, days: float = 5, count: int = 4) -> Any:
        found = cases(days, count).one(name)
        assert found is not None
        return found["undo"]

    assert undo("one") == {"possible": True, "until": at(31), "also": ["four"]}
    assert undo("one", count=2, days=2) == {"possible": True, "until": at(12), "also": ["two"]}
    assert undo("one", count=2, days=13) == {"possible": False, "until": at(12), "also": ["two"]}
    assert undo("four") == {"possible": True, "until": None, "also": []}
    assert undo("one", days=31)["possible"] is False
    assert undo("two") is undo("three") is None
    assert cases().one("five") is None


def test_the_way_back() -> None:
    assert cases().way_back("four") == (3, [])
    assert cases().way_back("one") == (0, ["four"])
    assert cases(count=2).way_back("two") == (1, [])
    for name in ("two", "three", "five"):
        with pytest.raises(ValueError, match=f"^request '{name}' must be carried out and not undone yet"):
            cases().way_back(name)


def test_what_this_process_has_not_made_yet() -> None:
    """Another process entered more."""
    found = cases(count=1).all()
    assert [(one["state"], one["done"]) for one in found] == [
        ("done", at(1)),
        ("done", None),
        ("waiting", None),
        ("done", None),
    ]


@pytest.mark.parametrize("days", [0, -1, True, 3651, 1.5, "30"])
def test_deadlines_that_are_none(days: Any) -> None:
    with pytest.raises(ValueError, match=r"^`deadline` must be a whole number of days, 1 to 3650, got "):
        check_deadline(days)
