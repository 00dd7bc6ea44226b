"""The base of every error that is reported in one line, and the exit status of a command."""

import sys
from collections.abc import Callable


class CapdistError(Exception):
    """Something the user can mend: the message says what is wrong, where, and what to do.

    A class of its own derives from it where code tells one kind from another.
    """


class OtherRankError(CapdistError):
    """Another rank can't continue; that rank reports the reason, this one only exits."""


def exit_status(command: Callable[[], int]) -> int:
    """Run a command and turn its errors into an exit status.

    Returns:
        What the command returns; 2 after a `CapdistError`, which is printed to stderr in one line
        unless another rank prints it; 130 after Ctrl-C.
    """
    try:
        return command()
    except OtherRankError:
        return 2
    except CapdistError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
