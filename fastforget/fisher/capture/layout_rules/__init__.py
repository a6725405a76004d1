"""Where the samples are in a function's result: a rule per kind of function, a file per family.

A rule is given a `Call` and returns the layout of its result, or None where samples may have been mixed or where
nobody knows. It never guesses. A file ends with its table ``RULES``, the functions of each rule by name: a new rule is
a function and a line of that table.
"""

from __future__ import annotations

from fastforget.fisher.capture.call import LayoutRule
from fastforget.fisher.capture.layout_rules import elementwise, indexing, layers, products, reductions, shapes

__all__ = ["RULES"]

RULES: dict[LayoutRule, str] = {
    rule: names
    for module in (elementwise, shapes, reductions, indexing, layers, products)
    for rule, names in module.RULES.items()
}
