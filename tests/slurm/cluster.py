"""A SLURM cluster of two nodes on this machine, independent of any other SLURM.

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
from contextlib import suppress
from pathlib import Path

import psutil

from tests.support.processes import ROOT, free_port

NODES = ("one", "two")
#: Scheduling intervals are short. A job is pre-empted with the signal of its --signal. Job numbers,
#: and so the jobs' ports, differ from those of a cluster that another test process runs at the same
#: time. The GPUs are ordinary device files: SLURM only counts and binds them.
CONF = """
ClusterName=capdist
FirstJobId={first}
SlurmctldHost=localhost(127.0.0.1)
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
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
SlurmdTimeout=5
GresTypes=gpu
NodeName=one NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4 Gres=gpu:2
NodeName=two NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4 Gres=gpu:2
PartitionName=work Nodes=one,two Default=YES PriorityTier=1 GraceTime=200
PartitionName=urgent Nodes=one,two PriorityTier=2
"""
GPUS = "NodeName=one,two Name=gpu File=/dev/null,/dev/zero\n"
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin"])


def why_unavailable() -> str:
    """Why SLURM can't run here; empty if it can."""
    for name in ("munged", "slurmctld", "slurmd", "sbatch"):
        if not shutil.which(name, path=PATH):
            return f"{name} is not installed; apt-get install slurm-wlm munge"
    return ""


class Cluster:
    """Its daemons run inside the ``with``; nothing is left running after it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._env = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH"))},
            "PATH": PATH,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "SLURM_CONF": str(folder / "slurm.conf"),
        }

    def __enter__(self) -> Cluster:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        """Kill every process with this configuration, jobs as well: they outlive their slurmd."""
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("SLURM_CONF") == self._env["SLURM_CONF"]:
                    process.kill()
        for daemon in self._daemons:
            daemon.wait()

    def _start(self) -> None:
        folder = self.folder
        folder.chmod(0o700)
        key, socket = folder / "munge.key", folder / "munge.socket"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        (folder / "state").mkdir()
        user, ports = getpass.getuser(), [free_port() for _ in range(3)]
        first = 1 + 20 * (os.getpid() % 290)
        conf = CONF.format(folder=folder, user=user, ports=ports, first=first)
        (folder / "slurm.conf").write_text(conf)
        (folder / "gres.conf").write_text(GPUS)
        files = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
        self._daemon("munged", "--foreground", "--force", f"--socket={socket}", *files)
        self.wait_for(socket.exists)
        self._daemon("slurmctld", "-D", "-i")
        for node in NODES:
            (folder / f"spool-{node}").mkdir()
            self._daemon("slurmd", "-D", "-N", node)
        self.wait_for(lambda: self.run("sinfo", "-h", "-o", "%T %D").split() == ["idle", "2"])

    def _daemon(self, *command: str) -> None:
        with (self.folder / "daemons.log").open("ab") as log:
            self._daemons.append(
                subprocess.Popen(
                    command, env=self._env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
            )

    def wait_for(self, condition: Callable[[], bool], seconds: float = 100) -> None:
        """Wait until a condition is true.

        Raises:
            AssertionError: with the end of the daemons' log, after ``seconds``.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, (self.folder / "daemons.log").read_text()[-3000:]
            time.sleep(0.1)

    def run(self, *command: str) -> str:
        """The output of a SLURM command."""
        result = subprocess.run(
            command, env=self._env, cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    def submit(self, *arguments: str) -> Job:
        """Submit a batch job whose log is in the cluster's folder."""
        log = self.folder / "job-%A-%a.log"
        number = self.run("sbatch", "--parsable", f"--output={log}", *arguments).strip()
        return Job(self, int(number))


class Job:
    """A submitted batch job."""

    def __init__(self, cluster: Cluster, number: int) -> None:
        self.cluster, self.number = cluster, number

    @property
    def log(self) -> str:
        """The output so far."""
        files = self.cluster.folder.glob(f"job-{self.number}-*.log")
        return "".join(file.read_text() for file in files)

    def field(self, name: str) -> str:
        """A field of ``scontrol show job``."""
        fields = self.cluster.run("scontrol", "--oneliner", "show", "job", str(self.number)).split()
        return next(field for field in fields if field.startswith(f"{name}=")).partition("=")[2]

    def wait(self, seconds: float = 200) -> str:
        """Wait until the job has ended; returns its state."""
        unfinished = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED", "PREEMPTED")
        deadline = time.monotonic() + seconds
        while (state := self.field("JobState")) in unfinished:
            assert time.monotonic() < deadline, self.log
            time.sleep(0.2)
        return state
