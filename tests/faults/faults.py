"""The faults: each function injects one into a run and returns what was observed."""

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
from tests.faults.network import (
    ADDRESSES,
    INTERFACE,
    NetworkLink,
    network_link,
    why_unavailable,
)
from tests.faults.process_launcher import ProcessLauncher
from tests.faults.scenario import (
    Outcome,
    RunSetup,
    Scenario,
    TooLateError,
    inject_and_finish,
    inject_and_resume,
    signal_random_rank,
    wait_for_message,
)

#: The steps after which a fault is injected that is detected up to two epochs later.
EARLY_STEPS = (2, 12)
#: ``timeout_s`` of runs whose ranks fall silent.
TIMEOUT_S = 3
#: Size of the disk that is filled, and the most bytes that are left: less than a checkpoint needs.
DISK, MAX_LEFT = 4_000_000, 40_000
#: Seconds that a network is cut for a while.
CUT_S = 10
#: How the process titles of evaluation workers with images start.
BUSY_WORKERS = ("ray::Decoder.begin", "ray::Decoder.following")
OPTIMIZER = {"batch": {"images": 8, "micro": 4}, "optimizer": {"lr": 0.01}}
SCST_STAGE = {"objective": "scst", "epochs": 5, "samples": 3, "reward": {"actors": 0}, **OPTIMIZER}
STAGES = [{"objective": "xe", "epochs": 2, **OPTIMIZER}, SCST_STAGE]
#: The steps of the second stage after which a fault is injected.
SCST_STEPS = (16, 36)
LOST_RANK = "another rank exited"
SILENT_RANK = rf"rank \d.* {TIMEOUT_S} s"

TORCH = RunSetup()
STREAM = RunSetup(settings=("data.reader=stream",))
ZERO = RunSetup(settings=("engine=deepspeed", "deepspeed.zero_optimization.stage=1"))
SCST = RunSetup(settings=(f"stages={json.dumps(STAGES)}",))
SCST_ONE_RANK = RunSetup(1, SCST.settings)


def kill_rank(scenario: Scenario) -> Outcome:
    return inject_and_resume(scenario, signal_random_rank(scenario, signal.SIGKILL), LOST_RANK)


def stop_rank(scenario: Scenario) -> Outcome:
    scenario.settings = (f"timeout_s={TIMEOUT_S}",)
    return inject_and_resume(scenario, signal_random_rank(scenario, signal.SIGSTOP), SILENT_RANK)


def kill_while_saving(scenario: Scenario) -> Outcome:
    def inject(launcher: ProcessLauncher) -> int:
        scenario.wait_for_random_step(launcher, EARLY_STEPS)
        launcher.wait_until(lambda: any(scenario.run.glob("checkpoints/.writing-*/*")), 0.002)
        launcher.kill(0)
        return 0

    def check_partial_checkpoint() -> None:
        if not any(scenario.run.glob("checkpoints/.writing-*")):
            raise TooLateError

    return inject_and_resume(scenario, inject, LOST_RANK, repair=check_partial_checkpoint)


def fill_disk(scenario: Scenario) -> Outcome:
    scenario.run.mkdir(parents=True)
    disk = ["-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(scenario.run)]
    subprocess.run(["mount", *disk], check=True)
    filler = scenario.run / "filler"

    def inject(launcher: ProcessLauncher) -> None:
        scenario.wait_for_random_step(launcher, EARLY_STEPS)
        free = shutil.disk_usage(scenario.run).free
        filler.write_bytes(bytes(free - scenario.random.randrange(4096, MAX_LEFT)))

    try:
        return inject_and_resume(scenario, inject, "[Mm]ake room", repair=filler.unlink)
    finally:
        subprocess.run(["umount", str(scenario.run)], check=True)


def damage_shard(scenario: Scenario, damage: Callable[[Path], None]) -> Outcome:
    """Damage one shard of a copy; the run is resumed with the undamaged shards."""
    copy = scenario.folder / "shards"
    shutil.copytree(scenario.references.shards.root, copy)
    scenario.settings = (f"data.shards={copy}",)

    def inject(launcher: ProcessLauncher) -> None:
        scenario.wait_for_random_step(launcher, EARLY_STEPS)
        shard = scenario.random.choice(Manifest.load(copy).split("train"))
        damage(copy / shard.name)

    return inject_and_resume(scenario, inject, "[Rr]estore")


def flip_bit(scenario: Scenario) -> Outcome:
    def flip(tar: Path) -> None:
        regions = [
            entry.members["regions.npy"]
            for shard in scenario.references.shards.shards
            if shard.name == tar.name
            for entry in scenario.references.shards.index(shard)
        ]
        member = scenario.random.choice(regions)
        with tar.open("r+b") as file:
            file.seek(member.offset + member.size - 1)
            last = file.read(1)
            file.seek(member.offset + member.size - 1)
            file.write(bytes([last[0] ^ 1]))

    return damage_shard(scenario, flip)


def delete_shard(scenario: Scenario) -> Outcome:
    return damage_shard(scenario, Path.unlink)


def kill_ray_process(scenario: Scenario, name: str) -> Outcome:
    """Kill a process of the Ray that the run has started."""
    reward = [f"stages.1.reward.{setting}" for setting in ("actors=2", "cpus=0.5")]
    scenario.settings = (*reward, "ray.timeout_s=3")

    def inject(launcher: ProcessLauncher) -> None:
        scenario.wait_for_random_step(launcher, SCST_STEPS)
        process = launcher.child(name)
        assert process is not None, f"no process {name}"
        process.kill()

    return inject_and_finish(scenario, inject, r"^rank 0: ")


def kill_reward_actor(scenario: Scenario) -> Outcome:
    return kill_ray_process(scenario, "ray::Scorer")


def kill_ray_head(scenario: Scenario) -> Outcome:
    return kill_ray_process(scenario, "gcs_server")


def kill_raylet(scenario: Scenario) -> Outcome:
    return kill_ray_process(scenario, "raylet")


def preempt(scenario: Scenario) -> Outcome:
    def inject(launcher: ProcessLauncher) -> None:
        scenario.wait_for_random_step(launcher, SCST_STEPS)
        launcher.kill(scenario.random_rank(), signal.SIGUSR1)

    return inject_and_resume(scenario, inject, "stopped at step", status=75)


def kill_evaluation_worker(scenario: Scenario) -> Outcome:
    tools = scenario.folder / "tools"
    tools.mkdir(parents=True)
    (tools / "java").write_text("#!/bin/sh\nexit 1\n")  # METEOR is slow, and not tested here
    (tools / "java").chmod(0o755)
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    reference = scenario.references.run(scenario.setup)
    captions = Path("captions/test-beam5.json")

    def evaluation(run: Path, *arguments: str) -> ProcessLauncher:
        split = ["--run", str(run), "--split", "test", "--beam", "5"]
        output = scenario.folder / f"evaluated-{len(arguments)}"
        return ProcessLauncher(output, "evaluate.py", [*split, *arguments], PATH=path)

    if not (reference / captions).exists():
        with evaluation(reference) as launcher:
            launcher.wait_for_exit(0)
    shutil.copytree(reference, scenario.run, ignore=shutil.ignore_patterns("captions", "scores*"))
    with evaluation(scenario.run, "--workers", "2") as launcher:
        launcher.wait_until(lambda: launcher.child(*BUSY_WORKERS))
        time.sleep(scenario.random.uniform(0, 3))
        launcher.wait_until(
            lambda: (worker := launcher.child(*BUSY_WORKERS)) and worker.kill() is None
        )
        outcome = wait_for_message(launcher, r"^worker \d of 2 ")
        launcher.wait_for_exit(0)
    assert (scenario.run / captions).read_bytes() == (reference / captions).read_bytes()
    return outcome


def use_two_hosts(scenario: Scenario, link: NetworkLink) -> None:
    """Place the two ranks at the two ends of a network link."""
    scenario.namespaces = link.namespaces
    scenario.env = {"MASTER_ADDR": ADDRESSES[0], "GLOO_SOCKET_IFNAME": INTERFACE}


def cut_network_for_a_while(scenario: Scenario) -> Outcome:
    with network_link() as link:
        use_two_hosts(scenario, link)

        def inject(launcher: ProcessLauncher) -> None:
            scenario.wait_for_random_step(launcher)
            link.cut()
            time.sleep(CUT_S)
            link.restore()

        return inject_and_finish(scenario, inject, "^error")


def cut_network_for_good(scenario: Scenario) -> Outcome:
    scenario.settings = (f"timeout_s={TIMEOUT_S}",)
    with network_link() as link:
        use_two_hosts(scenario, link)

        def inject(launcher: ProcessLauncher) -> None:
            scenario.wait_for_random_step(launcher)
            link.cut()

        return inject_and_resume(scenario, inject, SILENT_RANK)


@dataclass(frozen=True)
class Fault:
    """A fault and the run it is injected into; ``unavailable`` says why it can't be injected."""

    name: str
    description: str
    inject: Callable[[Scenario], Outcome]
    setup: RunSetup = TORCH
    unavailable: Callable[[], str] = lambda: ""


FAULTS = (
    Fault("kill", "a rank is killed (SIGKILL)", kill_rank),
    Fault("stop", f"a rank is stopped (SIGSTOP), `timeout_s` {TIMEOUT_S}", stop_rank),
    Fault("write", "the first rank is killed while it writes a checkpoint", kill_while_saving),
    Fault("disk", "the disk is full while a checkpoint is written", fill_disk),
    Fault("corrupt", "one bit of a shard flips in the middle of an epoch", flip_bit, STREAM),
    Fault("delete", "a shard is deleted in the middle of an epoch", delete_shard, STREAM),
    Fault("actor", "a reward actor is killed", kill_reward_actor, SCST_ONE_RANK),
    Fault("head", "Ray's head (`gcs_server`) is killed", kill_ray_head, SCST_ONE_RANK),
    Fault("raylet", "a raylet is killed", kill_raylet, SCST_ONE_RANK),
    Fault("worker", "an evaluation worker is killed", kill_evaluation_worker, RunSetup(1)),
    Fault("requeue", "SIGUSR1 to a rank in self-critical training, then a requeue", preempt, SCST),
    Fault(
        "pause",
        f"the network between two hosts is cut for {CUT_S} s",
        cut_network_for_a_while,
        TORCH,
        why_unavailable,
    ),
    Fault(
        "cut",
        f"the network between two hosts is cut for good, `timeout_s` {TIMEOUT_S}",
        cut_network_for_good,
        TORCH,
        why_unavailable,
    ),
    Fault("zero", "a rank is killed, DeepSpeed with ZeRO 1", kill_rank, ZERO),
)
