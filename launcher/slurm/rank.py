"""One rank of a job, started by srun: ``srun launcher/slurm/rank.py LOGS SCRIPT [ARGUMENTS]``.

SLURM's variables become those that torch and DeepSpeed read. All ranks but the first print to
LOGS/rank-N.log. The scheduler's signals are held back until the script can follow them.
"""

import os
import signal
import sys

from capdist.signals import STOP


def main() -> None:
    """Become the script."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    logs, *command = sys.argv[1:]
    rank, local = os.environ["SLURM_PROCID"], os.environ["SLURM_LOCALID"]
    # A task that is bound to one GPU knows it as number 0; others choose by their number.
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    os.environ |= {
        "RANK": rank,
        "LOCAL_RANK": "0" if gpus and "," not in gpus else local,
        "WORLD_SIZE": os.environ["SLURM_NTASKS"],
    }
    if rank != "0":
        log = os.open(f"{logs}/rank-{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
    os.execv(sys.executable, [sys.executable, *command])


if __name__ == "__main__":
    main()
