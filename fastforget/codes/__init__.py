"""Mnemonic codes: noise inputs by which a class can be addressed without its data."""

from fastforget.codes.mnemonic_codes import MnemonicCodes

__all__ = ["MnemonicCodes"]
