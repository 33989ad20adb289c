"""The exception for mistakes that the user can correct, and how its message is printed."""

from __future__ import annotations


class UserError(Exception):
    """A mistake of the user; the message is one line that names it and says what to do.

    The command line prints the message and exits with code 2, without a traceback.
    """


LONGEST_MESSAGE = 800
"""Characters of a message that is printed."""
_BYTES = {0xDC00 + byte: f"\\x{byte:02x}" for byte in range(0x80, 0x100)}
"""Python represents the bytes of a file name that are not UTF-8 by these code points."""


def printable(text: str) -> str:
    """A text as one line that is safe to print: control characters and bytes that are not UTF-8 become escapes."""
    if text.isprintable():
        return text
    shown = text.translate(_BYTES)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)


def one_line(message: str) -> str:
    """A message as one line that is safe to print; the middle of a long one is left out."""
    shown = printable(message)
    if len(shown) > LONGEST_MESSAGE:
        shown = f"{shown[: LONGEST_MESSAGE // 2]} ... {shown[-LONGEST_MESSAGE // 3 :]}"
    return shown
