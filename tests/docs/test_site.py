"""The site: built strictly, whole without a network, and the same pages that a code host shows."""

import re
import shutil
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("mkdocs", reason="make docs installs what builds the site")
pytest.importorskip("mkdocstrings_handlers")
markdown_it = pytest.importorskip("markdown_it")

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "docs" / "site"
# The tags by which two renderings of a page are compared.
TAGS = ("h1", "h2", "h3", "h4", "ul", "ol", "li", "table", "tr", "td", "blockquote", "p", "em", "strong", "img")

if not SCRIPTS.is_dir():
    pytest.skip("the pages are not part of this distribution", allow_module_level=True)


def build(root: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)  # noqa: S603 (our own)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    built = build(ROOT, folder)
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPTS)
    return __import__("api")


class Tags(HTMLParser):
    """Counts tags and keeps what a page makes a browser fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] += 1
        names = {"src", "srcset", "poster", "data"} | ({"href"} if tag == "link" else set())
        self.fetched += [value for name, value in attrs if name in names and value]


def test_a_browser_fetches_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        fetched = Tags(page.read_text(encoding="utf-8")).fetched
        assert any(address.endswith("site.css") for address in fetched)  # they are seen at all
        assert [address for address in fetched if re.match(r"(https?:)?//", address)] == [], page
    for sheet in site.rglob("*.css"):
        assert re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", sheet.read_text(encoding="utf-8")) == [], sheet


def test_search_finds_what_is_public(site: Path) -> None:
    index = (site / "search" / "search_index.js").read_text(encoding="utf-8")  # for pages opened from a folder
    for name in ("fastforget.one_shot", "fastforget.edits.recording", "fastforget.serving.LiveModel.forget"):
        assert f"#{name}" in index


def test_pages_have_the_structure_that_a_code_host_gives_them(site: Path) -> None:
    host = markdown_it.MarkdownIt("commonmark").enable("table")
    for page in sorted((ROOT / "docs").rglob("*.md")):
        name = page.relative_to(ROOT / "docs").with_suffix(".html").as_posix().replace("README", "index")
        text = (site / name).read_text(encoding="utf-8")
        article = text[text.index("<article") : text.index("</article>")]
        here, there = (Tags(part).count for part in (article, host.render(page.read_text(encoding="utf-8"))))
        assert sum(there.values()) > 5
        assert {tag: here[tag] for tag in TAGS} == {tag: there[tag] for tag in TAGS}, page


def test_a_broken_link_fails(tmp_path: Path) -> None:
    for name in ("docs", "examples", "fastforget"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for file in [*ROOT.glob("*.md"), ROOT / "mkdocs.yml", ROOT / "CITATION.cff"]:
        shutil.copy(file, tmp_path)
    page = tmp_path / "docs" / "glossary.md"
    page.write_text(page.read_text(encoding="utf-8") + "\n[a](missing.md) [b](tutorial.md#no-such-heading)\n")
    built = build(tmp_path, tmp_path / "site")
    assert built.returncode != 0
    assert "'missing.md'" in built.stderr
    assert "no-such-heading" in built.stderr


def test_a_public_name_without_documentation_fails(tmp_path: Path, script: ModuleType) -> None:
    package = tmp_path / "some"
    package.mkdir()
    text = (
        '"""Some."""\n__all__ = ["One", "two"]\nclass One:\n    """One."""\n    def three(self): ...\ndef two(): ...\n'
    )
    (package / "__init__.py").write_text(text)
    modules = {"some": "Some."}
    with pytest.raises(
        Exception, match=re.escape("these public names have no documentation: some.One.three, some.two")
    ):
        script.pages(tmp_path, "some", modules)
    (package / "__init__.py").write_text(text.replace("...", '"""Do."""'))
    pages = script.pages(tmp_path, "some", modules)
    assert "::: some.One" in pages["api/some.md"]
    assert "| [`two`](some.md#some.two) | Do. |" in pages["api/index.md"]


def test_every_public_name_has_an_entry(site: Path) -> None:
    import fastforget

    page = (site / "api" / "fastforget.html").read_text(encoding="utf-8")
    modules = {"baselines", "distributed", "integrations", "serving", "__version__"}
    for name in set(fastforget.__all__) - modules:
        assert f'id="fastforget.{name}"' in page
    for module in modules - {"__version__"}:
        text = (site / "api" / f"fastforget.{module}.html").read_text(encoding="utf-8")
        for name in getattr(fastforget, module).__all__:
            assert f"fastforget.{module}.{name}" in text
