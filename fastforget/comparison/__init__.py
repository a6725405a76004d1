"""Comparisons of unlearning methods on one's own data, over seeds, beside networks trained again.

How it flows: `config` reads a TOML file or a mapping and checks its keys; `plan` finds what they name (functions, data,
what to forget) and checks that before anything is trained; `networks` trains, or loads, each seed's original and its
retrained references; `run` has each method edit a copy, `measuring` audits it, and `store` keeps the row at once.
`result` has the rows; `summary` takes means and deviations over seeds; `tables` and `page` write them.
"""

from __future__ import annotations

from fastforget.comparison.result import Comparison
from fastforget.comparison.run import compare

__all__ = ["Comparison", "compare"]
