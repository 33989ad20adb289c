"""Text in cells of CSV files that spreadsheets do not take for a formula.

A spreadsheet evaluates a cell that begins with ``=``, ``+``, ``-`` or ``@``, so a class called ``=cmd|'/c calc'!A1``
would run a program. Such a cell gets an apostrophe in front, which spreadsheets take for "this is text".
"""

from __future__ import annotations

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def escape_cell(text: str) -> str:
    """The content of a cell: with an apostrophe in front if a spreadsheet would evaluate it. Numbers are unchanged."""
    return f"'{text}" if _is_formula(text.lstrip("'")) else text


def unescape_cell(text: str) -> str:
    """The text of a cell that ``escape_cell`` made."""
    return text[1:] if text.startswith("'") and _is_formula(text.lstrip("'")) else text


def _is_formula(text: str) -> bool:
    if not text.startswith(_FORMULA):
        return False
    try:
        float(text)
    except ValueError:
        return True
    return False
