"""The base of every error that is reported in one line instead of a traceback."""


class CapdistError(Exception):
    """Something the user can mend: the message says what is wrong, where, and what to do.

    Commands print it as ``error: <message>`` and exit with status 2. A class of its own derives
    from it where code tells one kind from another.
    """
