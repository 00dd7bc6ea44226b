"""The batch scripts, submitted to a real SLURM of two nodes."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import psutil
import pytest

from tests.slurm.cluster import Cluster, Job
from tests.support.runs import records

TRAIN = "launcher/slurm/train.sbatch"


def settings(**values: object) -> list[str]:
    return [part for name, v in values.items() for part in ("--set", f"{name}={json.dumps(v)}")]


def same(run: Path, whole: Path) -> None:
    for name in ("loss", "reward", "val_cider"):
        mine, its = ([r[name] for r in records(folder) if name in r] for folder in (run, whole))
        assert mine
        assert mine == pytest.approx(its, rel=1e-4, abs=1e-6), name


def scripts(run: Path) -> int:
    """How many ranks of a run have become train.py."""
    commands = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    return sum(c[1:2] == ["launcher/train.py"] and f'run="{run}"' in c for c in commands)


def error(job: Job) -> str:
    """The one line that a refusal is; nothing that fails is tried again."""
    assert (job.end(), job.fact("Restarts")) == ("FAILED", "0")
    lines = [line for line in job.log.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, job.log
    assert "Traceback" not in job.log
    return lines[0]


def test_deepspeed_and_ray_on_two_nodes(
    cluster: Cluster, config: Path, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    changed = {"run": str(run), "engine": "deepspeed", "stages.1.reward.actors": 1}
    job = cluster.submit("--nodes=2", TRAIN, str(config), *settings(**changed))
    assert job.end() == "COMPLETED", job.log
    same(run, whole)
    # The first rank speaks for all; the other has a file of its own.
    assert job.log.count("trained 16 steps") == 1
    (logs,) = (run / "logs").iterdir()
    assert {log.name for log in logs.iterdir()} == {"rank-1.log", "ray-0.log", "ray-1.log"}
    assert "scores the rewards itself" not in job.log + (logs / "rank-1.log").read_text()


def test_preempted_it_goes_on_as_if_nothing_had_happened(
    cluster: Cluster, config: Path, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    job = cluster.submit("--nodes=2", TRAIN, str(config), *settings(run=str(run)))
    # Ranks that have only begun to start hold the signal back until they can follow it.
    cluster.wait_for(lambda: scripts(run) == 2)
    urgent = cluster.submit("--partition=urgent", "--nodes=2", "--exclusive", "--wrap=true")
    assert (urgent.end(), job.end()) == ("COMPLETED", "COMPLETED"), job.log
    assert job.fact("Restarts") == "1"
    assert "stopped at step" in job.log
    same(run, whole)


def test_an_evaluation(cluster: Cluster, whole: Path, without_java: str) -> None:
    script = "launcher/slurm/evaluate.sbatch"
    job = cluster.submit(without_java, script, str(whole), "--beam", "1")
    assert job.end() == "COMPLETED", job.log
    assert "CIDEr" in job.log
    assert (whole / "scores" / "test-beam1.json").is_file()


def test_an_array_trains_and_scores_one_run_of_a_sweep_each(
    cluster: Cluster, config: Path, tmp_path: Path, without_java: str
) -> None:
    path, runs = tmp_path / "list.json", tmp_path / "runs"
    stages = json.loads(config.read_text())["stages"][:1]
    rows = {"tiny": {"config": str(config)}}
    path.write_text(
        json.dumps({"folder": str(runs), "rows": rows, "seeds": [1, 2], "set": {"stages": stages}})
    )
    sweep = [without_java, "launcher/slurm/sweep.sbatch", str(path)]
    job, none = (cluster.submit(f"--array={k}", *sweep) for k in (1, 2))
    assert "its 2 runs are 0 to 1; there is no run 2" in error(none)
    assert job.end() == "COMPLETED", job.log
    assert (runs / "tiny-2" / "scores" / "test-beam3.json").is_file()
    assert not (runs / "tiny-1").exists()


def test_a_config_that_is_not_there(cluster: Cluster) -> None:
    assert "nothing.json: no such file" in error(cluster.submit("-N2", TRAIN, "nothing.json"))


def test_more_tasks_than_gpus(cluster: Cluster, config: Path) -> None:
    wanted = ["--gpus-per-node=1", "--ntasks-per-node=2"]
    line = error(cluster.submit(*wanted, TRAIN, str(config)))
    assert "2 tasks on a node that gives the job 1 GPUs" in line


def test_a_port_that_is_taken(cluster: Cluster, config: Path, tmp_path: Path) -> None:
    held = cluster.submit("--hold", TRAIN, str(config), *settings(run=str(tmp_path / "run")))
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        port = 20000 + 2 * held.number
        other.bind(("0.0.0.0", port))
        other.listen()
        cluster.run("scontrol", "release", str(held.number))
        assert held.end() == "FAILED"
    assert f"does not meet the others at 127.0.0.1:{port}: The server socket" in held.log
    assert "EADDRINUSE" in held.log
    assert "Traceback" not in held.log


@pytest.mark.parametrize(
    ("binding", "numbers"), [("--gpus-per-task=1", "00"), ("--gpus-per-node=2", "01")]
)
def test_a_rank_knows_its_gpu(cluster: Cluster, tmp_path: Path, binding: str, numbers: str) -> None:
    show = (
        f"import os; open(f'{tmp_path}/' + os.environ['RANK'], 'w').write(os.environ['LOCAL_RANK'])"
    )
    tasks = ["srun", "--nodes=1", "--ntasks=2", binding]
    cluster.run(*tasks, "python", "launcher/slurm/rank.py", str(tmp_path), "-c", show)
    assert "".join((tmp_path / rank).read_text() for rank in "01") == numbers
