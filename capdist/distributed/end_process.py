"""How a process that joined a process group ends."""

import os
import sys
from typing import NoReturn


def end_process(status: int) -> NoReturn:
    """Flush the output and exit at once, without Python's own shutdown.

    Gloo's threads outlive the process group as long as anything refers to it, as DeepSpeed's
    parameters do. A thread that frees a tensor during Python's shutdown aborts the process, and a
    run that trained to its end would report failure.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
