"""What a command cannot do, in words for the person who gave it.

CommandError
"""


class CommandError(Exception):
    """A command cannot be done; the message says why and what to change."""
