"""A SLURM of two nodes on this machine, apart from any that the system has.

It has its own munge key and socket, ports, spool folders and configuration, all in one folder.
"""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.training.ranks import ROOT, free_port

DAEMONS = ("munged", "slurmctld", "slurmd")
#: Waits of a scheduler that serves many are cut short; a node that is gone is missed soon.
CONF = """
ClusterName=capdist
SlurmctldHost=localhost
SlurmctldAddr=127.0.0.1
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdSpoolDir={folder}/spool-%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdTimeout=10
MailProg=/bin/true
MpiDefault=none
NodeName=one NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4
NodeName=two NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4
PartitionName=work Nodes=one,two Default=YES PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=one,two PriorityTier=2
"""


def absent() -> str:
    """Why there can't be a SLURM here; empty if there can."""
    missing = [name for name in DAEMONS if not shutil.which(name, path=_path())]
    return f"there is no {missing[0]}; apt-get install slurm-wlm munge" if missing else ""


def _path() -> str:
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin"])


class Cluster:
    """Daemons, up between `__enter__` and `__exit__`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH"))},
            "PATH": _path(),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "SLURM_CONF": str(folder / "slurm.conf"),
        }

    def __enter__(self) -> Cluster:
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    def _start(self) -> None:
        folder = self.folder
        folder.chmod(0o700)
        key = folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        for name in ("state", "spool-one", "spool-two"):
            (folder / name).mkdir()
        ports = [free_port() for _ in range(3)]
        conf = CONF.format(folder=folder, user=getpass.getuser(), ports=ports)
        (folder / "slurm.conf").write_text(conf)
        files = {name: f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")}
        self._daemon("munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *files.values())
        self._until(lambda: (folder / "munge.socket").exists())
        self._daemon("slurmctld", "-D", "-i")
        for node in ("one", "two"):
            self._daemon("slurmd", "-D", "-N", node)
        self._until(lambda: self.say("sinfo", "-h", "-o", "%T %D").split() == ["idle", "2"])

    def _daemon(self, *command: str) -> None:
        with (self.folder / f"{command[0]}-{command[-1]}.log".replace("/", "_")[-60:]).open("wb") as log:
            self.processes.append(
                subprocess.Popen(command, env=self.env, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
            )

    def _until(self, moment: Callable[[], bool]) -> None:
        latest = time.monotonic() + 30
        while not moment():
            assert time.monotonic() < latest, self.folder
            assert all(process.poll() is None for process in self.processes), self.folder
            time.sleep(0.1)

    def _end(self) -> None:
        """The jobs' processes first: they outlive their slurmd."""
        ours = [psutil.Process(process.pid) for process in self.processes if process.poll() is None]
        for process in [*(child for p in ours for child in p.children(recursive=True)), *ours]:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                pass
        for daemon in self.processes:
            daemon.wait()

    def say(self, *command: str) -> str:
        result = subprocess.run(command, env=self.env, cwd=ROOT, capture_output=True, text=True, timeout=60)
        return result.stdout
