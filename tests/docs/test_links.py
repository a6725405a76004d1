"""Links between our pages lead to files and headings that exist."""

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "RELEASING.md", "SECURITY.md", "CHANGELOG.md")]
PAGES += sorted(DOCS.rglob("*.md"))

if not DOCS.is_dir():
    pytest.skip("the pages are not part of this distribution", allow_module_level=True)


def prose(page: Path) -> str:
    """Return a page without code blocks: comments in code look like headings."""
    return re.sub(r"^( *)```.*?^\1```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


@cache
def anchors(page: Path) -> set[str]:
    """Return what links to the page may name after `#`: its headings as GitHub spells and numbers them."""
    found: dict[str, int] = {}
    names = set()
    for title in re.findall(r"^#+ +(.*?) *$", prose(page), re.MULTILINE):
        name = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title).lower()).replace(" ", "-")
        names.add(f"{name}-{found[name]}" if name in found else name)
        found[name] = found.get(name, 0) + 1
    return names


def broken_links(page: Path) -> list[str]:
    """Return the links of a page that lead nowhere."""
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        if re.match(r"[a-z]+:", link):
            continue
        if not target.exists() or (anchor and anchor not in anchors(target.resolve())):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page) == []


def test_the_index_names_every_page() -> None:
    index = DOCS / "README.md"
    linked = {(DOCS / link.partition("#")[0]).resolve() for link in re.findall(r"\]\(([^)\s]+)\)", prose(index))}
    assert [page for page in PAGES if page not in linked and page != index] == []


def test_pages_that_python_names_are_there() -> None:
    for folder in ("fastforget", "benchmarks", "examples", "tests"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            for name in re.findall(r"\bdocs/[\w/-]+\.md\b", file.read_text(encoding="utf-8")):
                assert (ROOT / name).exists(), f"{file.relative_to(ROOT)} names {name}"


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# A `title`: of *two* words\n\n# Twice\n\n# Twice\n")
    page = tmp_path / "page.md"
    good = "[a](other.md) [b](other.md#a-title-of-two-words) [c](other.md#twice-1) [d](https://example.org/x#y)"
    page.write_text(f"# Here\n\n{good} [e](#here) [f](missing.md)\n[g](other.md#twice-2) [h](#there)\n")
    page.write_text(page.read_text() + "\n```\n# in code\n```\n\n[i](#in-code)\n")
    assert broken_links(page) == ["missing.md", "other.md#twice-2", "#there", "#in-code"]
