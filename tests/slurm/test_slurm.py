"""The batch scripts, submitted to a SLURM of two nodes."""

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


def assert_same_run(run: Path, reference: Path) -> None:
    for name in ("loss", "reward", "val_cider"):
        values, expected = (
            [record[name] for record in records(folder) if name in record]
            for folder in (run, reference)
        )
        assert values
        assert values == pytest.approx(expected, rel=1e-4, abs=1e-6), name


def started_ranks(run: Path) -> int:
    """How many ranks of a run execute train.py."""
    commands = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    return sum(c[1:2] == ["launcher/train.py"] and f'run="{run}"' in c for c in commands)


def error(job: Job) -> str:
    """The one error line of a job that fails without being requeued."""
    assert (job.wait(), job.field("Restarts")) == ("FAILED", "0")
    lines = [line for line in job.log.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, job.log
    assert "Traceback" not in job.log
    return lines[0]


def test_two_nodes_with_deepspeed_and_ray_train_as_one_process_does(
    cluster: Cluster, config: Path, reference: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    changed = {"run": str(run), "engine": "deepspeed", "stages.1.reward.actors": 1}
    job = cluster.submit("--nodes=2", TRAIN, str(config), *settings(**changed))
    assert job.wait() == "COMPLETED", job.log
    assert_same_run(run, reference)
    # Only the first rank writes to the job's log; the other has a file of its own.
    assert job.log.count("trained 16 steps") == 1
    (logs,) = (run / "logs").iterdir()
    assert {log.name for log in logs.iterdir()} == {"rank-1.log", "ray-0.log", "ray-1.log"}
    assert "rewards itself" not in job.log + (logs / "rank-1.log").read_text()


def test_a_preempted_job_is_requeued_and_resumes_exactly(
    cluster: Cluster, config: Path, reference: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    job = cluster.submit("--nodes=2", TRAIN, str(config), *settings(run=str(run)))
    # Ranks that are still starting block the signal until they can handle it.
    cluster.wait_for(lambda: started_ranks(run) == 2)
    urgent = cluster.submit("--partition=urgent", "--nodes=2", "--exclusive", "--wrap=true")
    assert (urgent.wait(), job.wait()) == ("COMPLETED", "COMPLETED"), job.log
    assert job.field("Restarts") == "1"
    assert "stopped at step" in job.log
    assert_same_run(run, reference)


def test_evaluate_sbatch_scores_a_run(cluster: Cluster, reference: Path, without_java: str) -> None:
    script = "launcher/slurm/evaluate.sbatch"
    job = cluster.submit(without_java, script, str(reference), "--beam", "1")
    assert job.wait() == "COMPLETED", job.log
    assert "CIDEr" in job.log
    assert (reference / "scores" / "test-beam1.json").is_file()


def test_each_job_of_an_array_trains_and_scores_one_run(
    cluster: Cluster, config: Path, tmp_path: Path, without_java: str
) -> None:
    path, runs = tmp_path / "list.json", tmp_path / "runs"
    stages = json.loads(config.read_text())["stages"][:1]
    rows = {"tiny": {"config": str(config)}}
    path.write_text(
        json.dumps({"folder": str(runs), "rows": rows, "seeds": [1, 2], "set": {"stages": stages}})
    )
    sweep = [without_java, "launcher/slurm/sweep.sbatch", str(path)]
    job, beyond = (cluster.submit(f"--array={k}", *sweep) for k in (1, 2))
    assert "its 2 runs are 0 to 1; there is no run 2" in error(beyond)
    assert job.wait() == "COMPLETED", job.log
    assert (runs / "tiny-2" / "scores" / "test-beam3.json").is_file()
    assert not (runs / "tiny-1").exists()


def test_a_missing_config_is_one_line(cluster: Cluster) -> None:
    assert "nothing.json: no such file" in error(cluster.submit("-N2", TRAIN, "nothing.json"))


def test_more_tasks_than_gpus_are_refused(cluster: Cluster, config: Path) -> None:
    resources = ["--gpus-per-node=1", "--ntasks-per-node=2"]
    line = error(cluster.submit(*resources, TRAIN, str(config)))
    assert "2 tasks per node, but the job has 1 GPUs per node" in line


def test_a_port_in_use_is_reported(cluster: Cluster, config: Path, tmp_path: Path) -> None:
    job = cluster.submit("--hold", TRAIN, str(config), *settings(run=str(tmp_path / "run")))
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        port = 20000 + 2 * job.number
        other.bind(("0.0.0.0", port))
        other.listen()
        cluster.run("scontrol", "release", str(job.number))
        assert job.wait() == "FAILED"
    (line,) = (line for line in job.log.splitlines() if line.startswith("error: "))
    assert f"127.0.0.1:{port}: The server socket" in line
    assert "EADDRINUSE" in job.log
    assert "Traceback" not in job.log


@pytest.mark.parametrize(
    ("binding", "local_ranks"), [("--gpus-per-task=1", "00"), ("--gpus-per-node=2", "01")]
)
def test_each_rank_gets_its_own_gpu(
    cluster: Cluster, tmp_path: Path, binding: str, local_ranks: str
) -> None:
    write = (
        f"import os; open(f'{tmp_path}/' + os.environ['RANK'], 'w').write(os.environ['LOCAL_RANK'])"
    )
    tasks = ["srun", "--nodes=1", "--ntasks=2", binding]
    cluster.run(*tasks, "python", "launcher/slurm/rank.py", str(tmp_path), "-c", write)
    assert "".join((tmp_path / rank).read_text() for rank in "01") == local_ranks
