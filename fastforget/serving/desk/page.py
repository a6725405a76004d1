"""The page of the desk, made of its files."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

__all__ = ["LANGUAGES", "RequestPage", "texts"]

LANGUAGES = ("en", "de")
_SCRIPTS = ("texts.js", "service.js", "elements.js", "choosing.js", "case.js", "desk.js")  # one script, in this order


@dataclass(frozen=True)
class RequestPage:
    """The page, and the headers that come with it.

    Attributes:
        text: HTML.
        headers: They let its own script and style run and nothing else, and no other page hold it in a frame.
    """

    text: str
    headers: Mapping[str, str]

    @classmethod
    def make(cls) -> RequestPage:
        """Return the page. It names no class: what the classes are called is for who may file requests."""
        style, script = _read("desk.css"), _script()
        said = json.dumps(texts(), ensure_ascii=False).replace("<", "\\u003c")  # nothing in a text can end the element
        text = _read("page.html").replace("/* style */", style).replace("/* texts */", said)
        policy = (
            f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
            "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
        )
        headers = {
            "Content-Security-Policy": policy,
            "X-Frame-Options": "DENY",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
        }
        return cls(text.replace("/* script */", script), headers)


def texts() -> dict[str, dict[str, str]]:
    """Return what the page says, by language and key; ``{name}`` stands for a value."""
    return {language: json.loads(_read(f"texts.{language}.json")) for language in LANGUAGES}


def _script() -> str:
    return '"use strict";\n' + "\n".join(map(_read, _SCRIPTS))


def _hash(content: str) -> str:
    """Return the source expression of an element with this content (W3C, Content Security Policy Level 3)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


@cache
def _read(name: str) -> str:
    return files("fastforget.serving.desk").joinpath(name).read_text("utf-8")
