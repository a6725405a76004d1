"""The page on which a person files a request, and follows it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

__all__ = ["request_page"]


def request_page(names: Sequence[str] | None) -> str:
    """Return the page, which knows what classes are called, if they have names."""
    text = json.dumps(list(names or [])).replace("<", "\\u003c")  # nothing in a name can end the script
    return _template().replace("/* names */ []", text)


@cache
def _template() -> str:
    return files("fastforget.serving").joinpath("request_page.html").read_text("utf-8")
