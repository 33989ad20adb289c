"""The one exception whose message is meant for the person at the keyboard."""

from __future__ import annotations


class UserError(Exception):
    """A mistake of the user's, told in one line that names the mistake and the mend.

    The command line prints the message and exits with code 2, without a traceback.
    """
