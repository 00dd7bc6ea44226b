"""Start one rank of a job under srun: ``srun python launcher/slurm/rank.py LOGS SCRIPT [...]``.

Sets the variables that torch and DeepSpeed read from SLURM's, redirects the output of all ranks but
the first to LOGS/rank-N.log, and blocks the scheduler's signals until SCRIPT handles them.
"""

import os
import signal
import sys

from capdist.signals import STOP


def main() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    logs, *command = sys.argv[1:]
    rank, local = os.environ["SLURM_PROCID"], os.environ["SLURM_LOCALID"]
    # A task bound to one GPU sees it as GPU 0; a task that sees several uses its local rank.
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
