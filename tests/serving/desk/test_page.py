"""What a privacy officer does at the desk, in a browser: by mouse, by keyboard, in both languages, on a telephone."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browser import assert_accessible, needed
from serving.desk.conftest import TOKEN, live_model, served
from torch import nn

from fastforget.serving import LiveModel
from fastforget.serving.history.proofs import RecordProof

needed("playwright.sync_api")
from playwright.sync_api import expect  # noqa: E402 (needs it)

Open = Callable[..., Any]
SIZES = [(width, dark) for width in (390, 1280) for dark in (False, True)]


def measured(_: nn.Module) -> dict[str, Any]:
    findings = [{"kind": "still in the features", "text": "a probe finds 31 % of the class"}]
    return {"findings": findings, "average_gap": 0.0123, "report": "https://reports.example/17"}


def let_in(page: Any) -> None:
    page.locator("#token").fill(TOKEN)
    page.get_by_role("button", name=re.compile("^(Use this token|Diesen Schlüssel verwenden)$")).click()


def filed(page: Any, cls: str, by: str, ticket: str) -> None:
    page.get_by_role("navigation").get_by_role("link", name="New request").click()
    page.get_by_label(cls, exact=True).check()
    page.get_by_label("Who asks for it, and why").fill(by)
    page.get_by_label("Ticket").fill(ticket)
    page.get_by_role("button", name="Continue: see what will happen").click()
    page.get_by_role("button", name="Confirm and file the request").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Request {ticket}")


@pytest.mark.parametrize(("width", "dark"), SIZES)
def test_filing_at_every_size(
    tmp_path: Path, opened: Open, pictured: Callable[[Any, str], None], width: int, dark: bool
) -> None:
    live = live_model(tmp_path, audit=measured, undo="expire:30d")
    kind = f"{width}-{'dark' if dark else 'light'}"
    with served(live, token=TOKEN) as url:
        page = opened(url, width=width, dark=dark)
        expect(page.get_by_role("alert")).to_have_text("A token is needed, or the token is wrong.")
        assert_accessible(page)
        pictured(page, f"{kind}-1-token")
        let_in(page)
        expect(page.get_by_text("No request was filed yet.")).to_be_visible()
        page.get_by_role("button", name="New request").click()
        page.get_by_label("coat", exact=True).check()
        page.get_by_label("Who asks for it, and why").fill("A. Person, letter of 3 May")
        page.get_by_label("Ticket").fill("ticket-17")
        assert_accessible(page)
        pictured(page, f"{kind}-2-new")
        page.get_by_role("button", name="Continue: see what will happen").click()
        for words in ("will_change", "cannot_inside", "undo_until"):
            start = json.loads(page.locator("#texts").text_content())["en"][words].split("{")[0]
            assert start in page.get_by_role("main").inner_text()
        assert_accessible(page)
        pictured(page, f"{kind}-3-confirm")
        page.get_by_role("button", name="Confirm and file the request").click()
        expect(page.locator(".state")).to_have_text("Done")
        main = page.get_by_role("main")
        expect(main).to_contain_text("found 1 thing that speaks against it")
        expect(main).to_contain_text("Inner values still hold much of the class.")
        expect(main).to_contain_text("differ by 1.23 points on average")
        expect(main).to_contain_text("30 days left")
        expect(page.get_by_role("link", name="The report of the audit")).to_have_attribute(
            "href", "https://reports.example/17"
        )
        assert_accessible(page)
        pictured(page, f"{kind}-4-done")
    assert live.version.classes == (3,)


@pytest.mark.parametrize(("width", "dark"), SIZES)
def test_following_and_undoing_at_every_size(
    tmp_path: Path, opened: Open, pictured: Callable[[Any, str], None], width: int, dark: bool
) -> None:
    live = live_model(tmp_path)
    kind = f"{width}-{'dark' if dark else 'light'}"
    with served(live) as url:
        page = opened(url, width=width, dark=dark)
        main = page.get_by_role("main")
        filed(page, "coat", "A. Person, letter of 3 May", "ticket-17")
        expect(page.locator(".state")).to_have_text("Done")
        filed(page, "dress", "another person", "ticket-18")
        expect(page.locator(".state")).to_have_text("Done")
        filed(page, "coat (forgotten already)", "the same, again", "ticket-19")
        expect(page.locator(".state")).to_have_text("Refused")
        expect(main).to_contain_text("This class was forgotten already. Nothing is left to do.")
        assert_accessible(page)
        pictured(page, f"{kind}-5-refused")
        page.goto(f"{url}#/requests/ticket-17")
        page.get_by_text("Undo this request …").click()
        page.get_by_role("button", name="Undo now").click()
        expect(page.get_by_text("Please say who undoes it, and why.")).to_be_visible()
        expect(page.get_by_text("Please confirm that these are undone, too.")).to_be_visible()
        assert_accessible(page)
        pictured(page, f"{kind}-6-undo")
        page.get_by_label("Who undoes it, and why").fill("B. Officer: the wrong person")
        page.get_by_label("Undo these, too").check()
        page.get_by_role("button", name="Undo now").click()
        expect(page.locator(".state")).to_have_text("Undone")
        expect(main).to_contain_text("Reason given: B. Officer: the wrong person")
        assert_accessible(page)
        pictured(page, f"{kind}-7-undone")
        page.get_by_role("navigation").get_by_role("link", name="All requests").click()
        states = page.locator("tbody .state")
        expect(states).to_have_text(["Refused", "Undone", "Undone"])
        assert page.locator("th:not([scope])").count() == 0
        assert_accessible(page)
        pictured(page, f"{kind}-8-all")
    assert live.version.classes == ()


def test_files_to_keep(tmp_path: Path, opened: Open) -> None:
    live = live_model(tmp_path)
    with served(live) as url:
        page = opened(url)
        filed(page, "</script><b>bag</b>", "A. Person", "ticket-17")
        expect(page.locator(".state")).to_have_text("Done")
        with page.expect_download() as download:
            page.get_by_role("button", name="Keep the promise as a file").click()
        assert download.value.suggested_filename == "promise-ticket-17.json"
        proof = RecordProof.load(download.value.path())
        assert proof.record.fields["asked_by"] == "A. Person"
        assert proof.public_key
        expect(page.get_by_role("status").last).to_have_text("The promise is saved. The service signed it.")
        for form, start in (("As a page", "<!doctype html>"), ("As a table (CSV)", "number,time,"), ("As JSON", "{")):
            with page.expect_download() as download:
                page.get_by_role("button", name=form).click()
            text = Path(download.value.path()).read_text("utf-8")
            assert text.startswith(start)
            assert "ticket-17" in text
        assert page.locator("main b").count() == 0


def test_by_keyboard_in_german(tmp_path: Path, opened: Open, pictured: Callable[[Any, str], None]) -> None:
    live = live_model(tmp_path, undo="never")
    with served(live, token=TOKEN, deadline=14) as url:
        page = opened(url, width=390, locale="de-DE")
        press = page.keyboard.press
        expect(page.locator("html")).to_have_attribute("lang", "de")
        expect(page.locator("#token")).to_be_focused()
        page.keyboard.type(TOKEN)
        press("Enter")
        expect(page.get_by_role("heading", level=1)).to_be_focused()
        press("Tab")
        press("Enter")  # the button for a new request
        expect(page.get_by_role("heading", level=1)).to_have_text("Neuer Antrag")
        expect(page.get_by_role("heading", level=1)).to_be_focused()
        for key in ("Tab", "c", "o", "a", "t", "Tab", "Tab", "Space", "Tab"):
            press(key)
        expect(page.locator("#chosen")).to_have_text("Gewählt: coat.")
        press("Tab")
        press("Tab")
        press("Enter")  # without saying who asks
        expect(page.get_by_text("Bitte geben Sie an, wer es verlangt und warum.")).to_be_visible()
        expect(page.locator("#asked_by")).to_be_focused()
        expect(page.locator("#asked_by")).to_have_attribute("aria-invalid", "true")
        page.keyboard.type("A. Person, Brief")
        press("Tab")
        press("Tab")
        press("Enter")
        expect(page.get_by_role("heading", level=1)).to_be_focused()
        expect(page.get_by_role("main")).to_contain_text("Die Änderung kann nicht rückgängig gemacht werden")
        expect(page.get_by_role("main")).to_contain_text("14 Tage nach dem Antrag")
        assert_accessible(page)
        pictured(page, "390-german-confirm")
        press("Tab")
        press("Enter")
        expect(page.locator(".state")).to_have_text("Erledigt")
        expect(page.get_by_role("main")).to_contain_text("Das kann nicht mehr rückgängig gemacht werden")
        assert_accessible(page)
        pictured(page, "390-german-done")
        page.get_by_role("button", name="English").click()
        expect(page.locator(".state")).to_have_text("Done")
        expect(page.locator("html")).to_have_attribute("lang", "en")
    assert live.version.classes == (3,)


def test_a_token_for_each_role(tmp_path: Path, opened: Open) -> None:
    """Each is asked for when it is needed, and what was typed stays."""
    live = LiveModel(live_model(tmp_path)._weights.draft, live_model(tmp_path).codes)
    secrets = {"ask": "a secret to ask with", "see": "a secret to see with", "revert": "a secret to go back with"}
    with served(live, token=secrets) as url:
        page = opened(url)
        page.locator("#token").fill(secrets["see"])
        page.locator("#token").press("Enter")
        page.get_by_role("button", name="New request").click()
        expect(page.get_by_role("heading", name="A token is needed")).to_be_visible()
        page.locator("#token").fill(secrets["ask"])
        page.locator("#token").press("Enter")
        filed(page, "coat", "A. Person", "ticket-17")
        expect(page.locator(".state")).to_have_text("Done")
        page.get_by_text("Undo this request …").click()
        page.get_by_label("Who undoes it, and why").fill("B. Officer")
        page.get_by_role("button", name="Undo now").click()
        page.locator("#token").fill(secrets["revert"])
        page.locator("#token").press("Enter")
        expect(page.get_by_label("Who undoes it, and why")).to_have_value("B. Officer")
        page.get_by_role("button", name="Undo now").click()
        expect(page.locator(".state")).to_have_text("Undone")
        page.get_by_role("button", name="Keep the promise as a file").click()
        expect(page.get_by_role("alert")).to_contain_text("the service keeps no record")


def test_what_is_shown_follows_what_happens_elsewhere(tmp_path: Path, opened: Open) -> None:
    live = live_model(tmp_path)
    with served(live) as url:
        page = opened(url)
        expect(page.get_by_text("No request was filed yet.")).to_be_visible()
        live.close()  # nobody carries out requests for now
        filed(page, "coat", "A. Person", "ticket-17")
        expect(page.locator(".state")).to_have_text("Waiting")
        live.follow(0.05)
        expect(page.locator(".state")).to_have_text("Done")
        expect(page.get_by_role("status").last).to_have_text("ticket-17: Done")
        live.revert(0, asked_by="somebody at the console")
        expect(page.locator(".state")).to_have_text("Undone")
        expect(page.get_by_role("main")).to_contain_text("somebody at the console")
