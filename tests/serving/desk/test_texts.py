"""What the page says: the same things in both languages, and nothing that is said nowhere."""

import re
from importlib.resources import files

from fastforget.serving.desk.page import LANGUAGES, RequestPage, texts

SCRIPTS = {
    file.name: file.read_text("utf-8") for file in files("fastforget.serving.desk").iterdir() if ".js" in file.name
}


def test_both_languages_say_the_same_with_the_same_values() -> None:
    said = texts()
    assert set(said) == set(LANGUAGES) == {"en", "de"}
    assert list(said["de"]) == list(said["en"])
    for key, text in said["en"].items():
        assert text.strip()
        assert sorted(re.findall(r"\{\w+\}", text)) == sorted(re.findall(r"\{\w+\}", said["de"][key])), key


def test_what_the_script_says_is_there_and_all_of_it_is_said() -> None:
    script = "\n".join(text for name, text in SCRIPTS.items() if name.endswith(".js"))
    page = RequestPage.make().text
    known = set(texts()["en"])
    named = set(re.findall(r'\bt\("(\w+)"', script)) | set(re.findall(r'data-(?:text|label)="(\w+)"', page))
    named |= {f"{key}_{count}" for key in re.findall(r'counted\("(\w+)"', script) for count in ("one", "many")}
    assert named <= known
    made_up = re.compile(r"^(state|claim|finding|reason|problem|access|export|waiting|done)_")
    lists = {"request", "class", "state", "asked", "due"}
    assert {key for key in known - named - lists if not made_up.match(key)} == set()
    assert set(re.findall(r'"((?:reason|problem)_\w+)"', script)) <= known


def test_the_page_runs_its_own_script_and_style_alone() -> None:
    page = RequestPage.make()
    policy = page.headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert not re.search(r"\son\w+=|style=|<link|src=", page.text.replace("onchange: event", "").split("<script>")[0])
    script = page.text.split("<script>")[1].split("</script>")[0]
    for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert forbidden not in script
