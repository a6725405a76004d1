"""What mkdocs needs beside the pages: files that lie outside docs/, notebooks, examples, the API, and links to them.

The pages are written for a code host, where a link may lead to any file of the repository. Here each file that is
linked becomes a page of the site, and the links are turned to it. mkdocs.yml names this file as its hook.
"""

from __future__ import annotations

import posixpath
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))
import api
import notebooks

ROOT = Path(__file__).parents[2]

# Pages of the repository's root, and what they are called on the site.
BESIDE = {
    "README.md": "overview.md",
    "CHANGELOG.md": "changes.md",
    "CONTRIBUTING.md": "contributing.md",
    "RELEASING.md": "releasing.md",
    "SECURITY.md": "security.md",
}
LANGUAGES = {".py": "python", ".toml": "toml", ".cff": "yaml", ".txt": "text", ".yml": "yaml", "": "text"}

FENCE = re.compile(r"^( *)(`{3,}).*?^\1\2 *$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?<=\])\(([^)\s:#]+)(#[^)\s]*)?\)")


def source_of(uri: str) -> str:
    """Return the path in the repository of the text behind a page, for instance ``docs/glossary.md``."""
    beside = {page: name for name, page in BESIDE.items()}
    return beside.get(uri) or f"docs/{uri}"


def page_of(path: str) -> str:
    """Return the page or file of the site that shows a file of the repository."""
    if path in BESIDE:
        return BESIDE[path]
    if not path.startswith("docs/"):
        return f"sources/{path}.md".replace("/.", "/")  # mkdocs leaves out what begins with a dot
    name = path.removeprefix("docs/")
    return re.sub(r"\.ipynb$", ".md", name)


def outside_code(text: str) -> Iterator[tuple[str, bool]]:
    """Yield the parts of a page in order, each with whether it is prose."""
    end = 0
    for fence in FENCE.finditer(text):
        yield text[end : fence.start()], True
        yield fence.group(), False
        end = fence.end()
    yield text[end:], True


def targets(text: str, source: str) -> Iterator[str]:
    """Yield the files of the repository that a page links to."""
    for part, prose in outside_code(text):
        if prose:
            for link in LINK.finditer(part):
                yield posixpath.normpath(posixpath.join(posixpath.dirname(source), link.group(1)))


def turn_links(text: str, source: str, uri: str) -> str:
    """Return a page with its links turned to the pages of the site."""

    def turned(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link.group(1)))
        if not (ROOT / path).exists():
            return link.group()  # mkdocs says that it leads nowhere
        return f"({posixpath.relpath(page_of(path), posixpath.dirname(uri) or '.')}{link.group(2) or ''})"

    return "".join(LINK.sub(turned, part) if prose else part for part, prose in outside_code(text))


def listing(path: str) -> str:
    """Return a page that shows a source file."""
    language = LANGUAGES[Path(path).suffix]
    return f"# {path}\n\n````{language}\n{(ROOT / path).read_text(encoding='utf-8')}````\n"


def on_files(files: Files, config: MkDocsConfig, **_: Any) -> Files:
    """Add what is not a Markdown page of docs/."""
    texts: dict[str, str] = {}
    for name, uri in BESIDE.items():
        if (ROOT / name).exists():
            texts[uri] = (ROOT / name).read_text(encoding="utf-8")
    for notebook in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        uri = f"notebooks/{notebook.stem}.md"
        files.remove(files.src_uris[f"notebooks/{notebook.name}"])
        texts[uri] = notebooks.as_markdown(notebook)
    pages = {file.src_uri: file.content_string for file in files.documentation_pages()} | texts
    for uri, text in pages.items():
        for path in targets(text, source_of(uri)):
            if (ROOT / path).is_file() and not path.startswith("docs/") and path not in BESIDE:
                texts[page_of(path)] = listing(path)
    texts |= api.pages(ROOT)
    for uri, text in texts.items():
        files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Turn the links of a page."""
    return turn_links(markdown, source_of(page.file.src_uri), page.file.src_uri)
