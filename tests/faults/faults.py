"""What may happen to a run: each function is one fault, tried once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from shards.manifest import Manifest
from tests.faults.crew import Crew
from tests.faults.network import ADDRESSES, CARD, Cable, absent, cable
from tests.faults.trial import (
    Found,
    Kind,
    MissedError,
    Trial,
    go_on,
    notice,
    signalled,
    stop_and_resume,
)

#: After which steps something may happen that is noticed up to two epochs later.
EARLY = (2, 12)
#: Seconds that a silent rank is waited for.
SILENT_S = 3
#: Bytes of the disk that fills up, and the most that are left on it: less than a checkpoint needs.
DISK, LEFT = 4_000_000, 40_000
#: Seconds that a network is cut.
CUT_S = 10
#: How the titles begin of evaluation workers that have images.
AT_WORK = ("ray::Decoder.begin", "ray::Decoder.following")
OPTIMIZER = {"batch": {"images": 8, "micro": 4}, "optimizer": {"lr": 0.01}}
REWARDED = {"objective": "scst", "epochs": 5, "samples": 3, "reward": {"actors": 0}, **OPTIMIZER}
BOTH = [{"objective": "xe", "epochs": 2, **OPTIMIZER}, REWARDED]
#: The steps of the second stage after which something may happen.
REWARDED_MOMENTS = (16, 36)

PLAIN = Kind()
STREAM = Kind(settings=("data.reader=stream",))
ZERO = Kind(settings=("engine=deepspeed", "deepspeed.zero_optimization.stage=1"))
SCST = Kind(settings=(f"stages={json.dumps(BOTH)}",))
ALONE = Kind(1, SCST.settings)


def killed(trial: Trial) -> Found:
    return stop_and_resume(trial, signalled(trial, signal.SIGKILL), "another rank is gone")


def stopped(trial: Trial) -> Found:
    trial.settings = (f"timeout_s={SILENT_S}",)
    return stop_and_resume(
        trial, signalled(trial, signal.SIGSTOP), r"nothing was heard of rank \d "
    )


def killed_in_writing(trial: Trial) -> Found:
    def strike(crew: Crew) -> int:
        trial.wait(crew, EARLY)
        crew.until(lambda: any(trial.run.glob("checkpoints/.writing-*/*")), 0.002)
        crew.kill(0)
        return 0

    def torn() -> None:
        if not any(trial.run.glob("checkpoints/.writing-*")):
            raise MissedError

    return stop_and_resume(trial, strike, "another rank is gone", mend=torn)


def full_disk(trial: Trial) -> Found:
    trial.run.mkdir(parents=True)
    disk = ["-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(trial.run)]
    subprocess.run(["mount", *disk], check=True)
    filler = trial.run / "filler"

    def strike(crew: Crew) -> None:
        trial.wait(crew, EARLY)
        free = shutil.disk_usage(trial.run).free
        filler.write_bytes(bytes(free - trial.draw.randrange(4096, LEFT)))

    try:
        return stop_and_resume(trial, strike, "make room", mend=filler.unlink)
    finally:
        subprocess.run(["umount", str(trial.run)], check=True)


def damaged(trial: Trial, damage: Callable[[Path], None]) -> Found:
    """Something happens to a shard; it is restored before the run goes on."""
    copy = trial.folder / "shards"
    shutil.copytree(trial.workshop.shards.root, copy)
    trial.settings = (f"data.shards={copy}",)

    def strike(crew: Crew) -> None:
        trial.wait(crew, EARLY)
        shard = trial.draw.choice(Manifest.load(copy).split("train"))
        damage(copy / shard.name)

    return stop_and_resume(trial, strike, "restore it")


def corrupted(trial: Trial) -> Found:
    def flip(tar: Path) -> None:
        regions = [
            entry.members["regions.npy"]
            for shard in trial.workshop.shards.shards
            if shard.name == tar.name
            for entry in trial.workshop.shards.index(shard)
        ]
        member = trial.draw.choice(regions)
        with tar.open("r+b") as file:
            file.seek(member.offset + member.size - 1)
            last = file.read(1)
            file.seek(member.offset + member.size - 1)
            file.write(bytes([last[0] ^ 1]))

    return damaged(trial, flip)


def deleted(trial: Trial) -> Found:
    return damaged(trial, Path.unlink)


def of_ray(trial: Trial, title: str) -> Found:
    """A process of the Ray that the run has started."""
    chosen = [f"stages.1.reward.{key}" for key in ("actors=2", "cpus=0.5")]
    trial.settings = (*chosen, "ray.timeout_s=3")

    def strike(crew: Crew) -> None:
        trial.wait(crew, REWARDED_MOMENTS)
        process = crew.child(title)
        assert process is not None, f"there is no {title}"
        process.kill()

    return go_on(trial, strike, r" is lost: | scores the rewards itself")


def actor(trial: Trial) -> Found:
    return of_ray(trial, "ray::Scorer")


def head(trial: Trial) -> Found:
    return of_ray(trial, "gcs_server")


def raylet(trial: Trial) -> Found:
    return of_ray(trial, "raylet")


def requeued(trial: Trial) -> Found:
    def strike(crew: Crew) -> None:
        trial.wait(crew, REWARDED_MOMENTS)
        crew.kill(trial.victim(), signal.SIGUSR1)

    return stop_and_resume(trial, strike, "stopped at step", status=75)


def evaluation_worker(trial: Trial) -> Found:
    tools = trial.folder / "tools"
    tools.mkdir(parents=True)
    (tools / "java").write_text("#!/bin/sh\nexit 1\n")  # slow, and no part of it
    (tools / "java").chmod(0o755)
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    whole = trial.workshop.whole(trial.kind)
    captions = Path("captions/test-beam5.json")

    def evaluation(run: Path, *arguments: str) -> Crew:
        split = ["--run", str(run), "--split", "test", "--beam", "5"]
        printed = trial.folder / f"evaluated-{len(arguments)}"
        return Crew(printed, "evaluate.py", [*split, *arguments], PATH=path)

    if not (whole / captions).exists():
        with evaluation(whole) as crew:
            crew.end(0)
    shutil.copytree(whole, trial.run, ignore=shutil.ignore_patterns("captions", "scores*"))
    with evaluation(trial.run, "--workers", "2") as crew:
        crew.until(lambda: crew.child(*AT_WORK))
        time.sleep(trial.draw.uniform(0, 3))
        crew.until(lambda: (worker := crew.child(*AT_WORK)) and worker.kill() is None)
        found = notice(crew, " is lost: ")
        crew.end(0)
    assert (trial.run / captions).read_bytes() == (whole / captions).read_bytes()
    return found


def on_two_hosts(trial: Trial, between: Cable) -> None:
    """Let the run's ranks be on the two ends of a cable."""
    trial.hosts = between.hosts
    trial.more = {"MASTER_ADDR": ADDRESSES[0], "GLOO_SOCKET_IFNAME": CARD}


def cut_for_a_while(trial: Trial) -> Found:
    with cable() as between:
        on_two_hosts(trial, between)

        def strike(crew: Crew) -> None:
            trial.wait(crew)
            between.cut()
            time.sleep(CUT_S)
            between.mend()

        return go_on(trial, strike, "^error")


def cut_for_good(trial: Trial) -> Found:
    trial.settings = (f"timeout_s={SILENT_S}",)
    with cable() as between:
        on_two_hosts(trial, between)

        def strike(crew: Crew) -> None:
            trial.wait(crew)
            between.cut()

        return stop_and_resume(trial, strike, r"nothing was heard of rank \d ")


@dataclass(frozen=True)
class Fault:
    """What happens, to a run of which kind; ``absent`` says why it can't be tried here."""

    name: str
    what: str
    happen: Callable[[Trial], Found]
    kind: Kind = PLAIN
    absent: Callable[[], str] = lambda: ""


FAULTS = (
    Fault("kill", "a rank is killed (SIGKILL)", killed),
    Fault("stop", f"a rank is stopped (SIGSTOP), `timeout_s` {SILENT_S}", stopped),
    Fault("write", "the first rank is killed while it writes a checkpoint", killed_in_writing),
    Fault("disk", "the disk is full while a checkpoint is written", full_disk),
    Fault("corrupt", "a bit of a shard flips in mid-epoch", corrupted, STREAM),
    Fault("delete", "a shard is deleted in mid-epoch", deleted, STREAM),
    Fault("actor", "a reward actor is killed", actor, ALONE),
    Fault("head", "Ray's head (`gcs_server`) is killed", head, ALONE),
    Fault("raylet", "a raylet is killed", raylet, ALONE),
    Fault("worker", "an evaluation worker is killed", evaluation_worker, Kind(1)),
    Fault("requeue", "SIGUSR1 to a rank in self-critical training, requeued", requeued, SCST),
    Fault(
        "pause",
        f"the network between two hosts is cut for {CUT_S} s",
        cut_for_a_while,
        PLAIN,
        absent,
    ),
    Fault(
        "cut", f"the network is cut for good, `timeout_s` {SILENT_S}", cut_for_good, PLAIN, absent
    ),
    Fault("zero", "a rank is killed, DeepSpeed with ZeRO 1", killed, ZERO),
)
