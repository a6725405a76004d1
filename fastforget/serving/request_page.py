"""The page on which a person files a request, and follows it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

__all__ = ["RequestPage"]


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
    def of(cls, names: Sequence[str] | None) -> RequestPage:
        """Return the page, which knows what classes are called, if they have names."""
        known = json.dumps(list(names or [])).replace("<", "\\u003c")  # nothing in a name can end the script
        text = _template().replace("/* names */ []", known)
        policy = (
            f"default-src 'none'; script-src {_hash(text, 'script')}; style-src {_hash(text, 'style')}; "
            "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )
        headers = {
            "Content-Security-Policy": policy,
            "X-Frame-Options": "DENY",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
        }
        return cls(text, headers)


def _hash(page: str, tag: str) -> str:
    """Return the source expression of the only element of a kind (W3C, Content Security Policy Level 3)."""
    (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


@cache
def _template() -> str:
    return files("fastforget.serving").joinpath("request_page.html").read_text("utf-8")
