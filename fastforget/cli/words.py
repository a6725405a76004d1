"""What the library says to its caller, in the words of the command line."""

from __future__ import annotations

__all__ = ["in_command_words"]

# What is longer comes first, where it begins with what is shorter.
_WORDS = {
    "`samples=(inputs, targets)`": "`--samples`",
    "`samples`": "`--samples`",
    "`learn_to_unlearn`": "`fastforget unlearn`",
    "`inscribe`": "`fastforget inscribe`",
    "`mnemonic_codes`": "`--codes`",
    "`forgotten`": "`--forgotten`",
    "(forgotten=)": "(--forgotten)",
    "`floor`": "`--floor`",
    "`held_out`": "`--validation`",
    "`output_row`": "`--output-row`",
    "`names`": "`--names`",
    '`level="output"`': "`--level output`",
    '`level="body"`': "`--level body`",
    '`level="features"`': "`--level features`",
    "a smaller `lr` or `rate`": "a smaller `--lr` or `--rate`",
    "a smaller `lr`": "a smaller `--lr`",
    "fine-tune it with the codes (codes.embed)": "fine-tune it with the codes (`fastforget inscribe`)",
    "fine-tune it with them (codes.embed)": "fine-tune it with them (`fastforget inscribe`)",
    "(MnemonicCodes.from_tensors)": "(`fastforget codes --from-samples`)",
}


def in_command_words(text: str) -> str:
    """Return a text of the library with options and commands in the place of arguments and functions.

    Example:
        >>> in_command_words("`samples` must hold some of remaining classes, got none")
        '`--samples` must hold some of remaining classes, got none'
    """
    for word, command_word in _WORDS.items():
        text = text.replace(word, command_word)
    return text
