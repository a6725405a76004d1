"""The record as tables for others."""

import csv
import html
import io
import json
import re
from pathlib import Path

import pytest
from serving.history.archives import live

from fastforget.serving import Record, read_log
from fastforget.serving.history.export import exported
from fastforget.serving.history.witness import read_head_proof

NAMES = ["ape", "bee", "<cat>", "dog"]


@pytest.fixture
def records(folder: Path) -> list[Record]:
    subject = live(folder, undo="expire:30d")
    subject.ask([2, 5], request="one", asked_by='=HYPERLINK("http://example")')
    subject.forget([2, 5], request="one", asked_by="<script>alert(1)</script>")
    with pytest.raises(ValueError, match="forgotten earlier"):
        subject.forget(2, request="two")
    subject.revert(0, request="three", asked_by="a person,\nby letter")
    return read_log(folder / "requests.jsonl")


def test_as_a_table_for_spreadsheets(records: list[Record]) -> None:
    rows = list(csv.DictReader(io.StringIO(exported(records, "csv", NAMES), newline="")))
    assert [row["kind"] for row in rows] == [
        "request filed",
        "model edited",
        "request refused",
        "went back to version 0",
    ]
    assert [row["number"] for row in rows] == ["1", "2", "3", "4"]
    assert (rows[0]["classes"], rows[0]["class_names"]) == ("2, 5", "<cat>, 5")
    assert rows[0]["asked_by"] == '\'=HYPERLINK("http://example")'  # which no spreadsheet runs
    assert rows[3]["asked_by"] == "a person,\nby letter"
    assert rows[1]["outcome"].startswith("disconnected, ")
    assert "forgotten earlier" in rows[2]["reason"]
    assert [row["version"] for row in rows] == ["", "1", "", "2"]
    assert [row["hash"] for row in rows] == [record.hash for record in records[1:]]


def test_as_json(records: list[Record], folder: Path) -> None:
    head = read_head_proof(folder / "requests.jsonl", 0).head
    found = json.loads(exported(records, "json", NAMES, head))
    assert found["head"] == head.note
    for row, record in zip(found["records"], records[1:], strict=True):
        named = row["fields"].pop("class_names", None)
        assert row["fields"] == dict(record.fields)
        assert (row["number"], row["time"], row["hash"]) == (record.number, record.time, record.hash)
        assert len(named or []) == len(record.fields.get("classes") or [])
    assert json.loads(exported(records, "json"))["head"] is None


def test_as_a_page(records: list[Record], folder: Path) -> None:
    head = read_head_proof(folder / "requests.jsonl", 0).head
    page = exported(records, "html", NAMES, head)
    assert "<script" not in page
    assert "default-src &#x27;none&#x27;" in page or "default-src 'none'" in page
    cells = [html.unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", page, re.DOTALL)]
    assert "<cat>, 5" in cells
    assert "<script>alert(1)</script>" in cells
    assert [record.hash for record in records[1:]] == [cell for cell in cells if re.fullmatch("[0-9a-f]{64}", cell)]
    assert page.count('<th scope="row">') == 4
    assert html.escape(head.note) in page
    assert "<main>" in page
    assert '<html lang="en">' in page


def test_another_form(records: list[Record]) -> None:
    with pytest.raises(ValueError, match=r"^the form must be one of csv, json, html, got 'pdf'$"):
        exported(records, "pdf")
