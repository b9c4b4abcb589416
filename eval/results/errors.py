"""The base of the errors that the user can act on."""

from __future__ import annotations


class UserError(Exception):
    """An error whose message says it all. The command line prints the message without a traceback."""
