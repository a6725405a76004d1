"""Files that appear whole or not at all, and on the disk before they appear."""

import os
from pathlib import Path

import pytest

from fastforget.files.durable import sync, whole_files


def test_files_appear_when_all_are_written(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("old")
    with whole_files(first, str(second)) as drafts:
        for draft in drafts:
            draft.write_text("new")
        assert first.read_text() == "old"
        assert not second.exists()
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"first": "new", "second": "new"}


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, SystemExit])
def test_none_appears_after_an_error(tmp_path: Path, error: type[BaseException]) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    second.write_text("old")

    def write() -> None:
        with whole_files(first, second) as drafts:
            for draft in drafts:
                draft.write_text("new")
            raise error

    with pytest.raises(error):
        write()
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"second": "old"}


def test_none_appears_if_one_was_not_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), whole_files(tmp_path / "first", tmp_path / "second") as (draft, _):
        draft.write_text("new")
    assert list(tmp_path.iterdir()) == []


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    with whole_files(link) as (draft,):
        draft.write_text("new")
        assert draft.parent == target.parent
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_contents_are_on_the_disk_before_names_and_names_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is synced, by its number in the file system, and whether the file has its name then."""
    events: list[tuple[int, bool]] = []
    target = tmp_path / "file"

    def fsync(opened: int) -> None:
        events.append((os.fstat(opened).st_ino, target.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    with whole_files(target) as (draft,):
        draft.write_text("new")
    assert events == [(target.stat().st_ino, False), (tmp_path.stat().st_ino, True)]


@pytest.mark.parametrize("error", [OSError("no space left"), KeyboardInterrupt()])
def test_what_the_disk_does_not_take_does_not_appear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    target = tmp_path / "file"
    target.write_text("old")

    def fsync(_: int) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(type(error)), whole_files(target) as (draft,):
        draft.write_text("new")
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"file": "old"}


def test_a_missing_file_cannot_be_synced(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sync(tmp_path / "none")
