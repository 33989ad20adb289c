"""The exception for mistakes that the user can correct."""

from __future__ import annotations


class UserError(Exception):
    """A mistake of the user; the message is one line that names it and says what to do.

    The command line prints the message and exits with code 2, without a traceback.
    """
