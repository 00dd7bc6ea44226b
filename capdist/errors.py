"""The base of every error that is reported in one line, and the exit status of a command."""

import errno
import re
import sys
from collections.abc import Callable

#: What to do after a system error, by its number.
_REMEDIES = {
    errno.ENOENT: "check the path",
    errno.EISDIR: "give a file",
    errno.ENOTDIR: "a part of the path is a file; give another path",
    errno.EEXIST: "give another path",
    errno.EACCES: "change its permissions, or give another path",
    errno.EPERM: "change its permissions, or give another path",
    errno.EROFS: "give another path",
    errno.ENOSPC: "free disk space, or give another path",
    errno.EDQUOT: "free disk space, or give another path",
}


class CapdistError(Exception):
    """Something the user can mend: the message says what is wrong, where, and what to do.

    A class of its own derives from it where code tells one kind from another.
    """


class OtherRankError(CapdistError):
    """Another rank can't continue; that rank reports the reason, this one only exits."""


def exit_status(command: Callable[[], int]) -> int:
    """Run a command and turn its errors into an exit status.

    Returns:
        What the command returns; 2 after a `CapdistError`, an error of the file system or a missing
        package of an extra, which is printed to stderr in one line unless another rank prints it;
        130 after Ctrl-C.
    """
    try:
        return command()
    except OtherRankError:
        return 2
    except CapdistError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if not of_a_file(error):
            raise
        print(f"error: {explain(error)}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if (extra := extra_of(error.name or "")) is None:
            raise
        remedy = f"install it with: pip install 'capdist[{extra}]'"
        print(f"error: this needs {error.name}; {remedy}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def extra_of(module: str) -> str | None:
    """The first extra of the package with a module, None if there is none."""
    from importlib.metadata import PackageNotFoundError, requires

    try:
        required = requires("capdist") or []
    except PackageNotFoundError:  # a checkout that is not installed
        return None
    package = module.partition(".")[0].replace("_", "-")
    found = (re.match(r"([\w.-]+).*extra == [\"'](\w+)", line) for line in required)
    return next((f[2] for f in found if f and f[1].replace("_", "-") == package), None)


def of_a_file(error: OSError) -> bool:
    """Whether the file system refused something; other system errors may be faults of ours."""
    return error.filename is not None or error.errno in (errno.ENOSPC, errno.EDQUOT)


def explain(error: OSError) -> str:
    """What the file system refused, in one line: the path, the reason and what to do."""
    reason = error.strerror or str(error)
    remedy = _REMEDIES.get(error.errno or 0)
    line = f"{reason}; {remedy}" if remedy else reason
    # The second path of a rename is the one that the user knows.
    path = error.filename2 or error.filename
    return line if path is None else f"{path}: {line}"
