"""Evaluation on a cluster, with ``ray submit`` over ssh and with ``ray job submit``."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from capdist.config.base import ConfigError
from capdist.inference.evaluation import Evaluation, EvaluationRequest
from capdist.inference.exported_model import read_run
from capdist.workers.base import PoolError
from tests.support.processes import ROOT, environment
from tests.support.runs import checkpoint

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
BIN = Path(sys.executable).parent


def ray(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ray.scripts.scripts", *arguments],
        env=env or environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def expected(without_java: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The results of an evaluation in one process."""
    run = Path(shutil.copytree(trained, tmp_path_factory.mktemp("expected") / "run"))
    Evaluation.open(EvaluationRequest(run, "test"), read_run(run)).evaluate()
    return results(run)


def results(run: Path) -> Any:
    """Captions and scores, without the speed."""
    scores = json.loads((run / "scores" / "test-beam3.json").read_text())
    del scores["run, beam 3"]["images_per_s"]
    return scores, (run / "captions" / "test-beam3.json").read_text()


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """Keys, and a command that connects to an sshd whose home folder is in ``tmp_path``."""
    home = tmp_path / "home"
    home.mkdir()
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-N", "", "-f", tmp_path / name], check=True)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # on a machine without the ssh service
    (tmp_path / "sshd_config").write_text(
        f"HostKey {tmp_path}/host\nAuthorizedKeysFile {tmp_path}/user.pub\nStrictModes no\n"
        f"PermitRootLogin yes\nUsePAM no\nSetEnv HOME={home}\n"
    )
    return {
        "ssh_user": getpass.getuser(),
        "ssh_private_key": str(tmp_path / "user"),
        "ssh_proxy_command": f"{SSHD} -i -f {tmp_path}/sshd_config",
    }


@pytest.mark.skipif(
    not all([SSHD, shutil.which("ssh"), shutil.which("rsync")]),
    reason="no sshd, ssh or rsync; apt-get install openssh-server rsync",
)
def test_ray_submit_scores_as_one_process_does(
    run: Path, expected: Any, without_java: Path, machine: dict[str, str], tmp_path: Path
) -> None:
    cluster = yaml.safe_load((ROOT / "launcher/ray/cluster.yaml").read_text())
    cluster |= {"cluster_name": f"test-{os.getpid()}", "auth": machine, "file_mounts": {}}
    cluster["provider"]["head_ip"] = "127.0.0.1"
    path = f"export PATH={without_java}:{BIN}:$PATH PYTHONPATH={ROOT}"
    cluster["setup_commands"] = [f"echo '{path}' >> ~/.bashrc"]
    cluster["head_start_ray_commands"] = []  # `ray stop` would stop other tests' Ray
    config = tmp_path / "cluster.yaml"
    config.write_text(yaml.safe_dump(cluster))
    try:
        submit = ["submit", "--start", "--no-config-cache", str(config), "launcher/evaluate.py"]
        result = ray(*submit, "--", "--run", str(run))
        assert result.returncode == 0, result.stdout + result.stderr
        assert results(run) == expected
        assert (tmp_path / "home" / "evaluate.py").is_file()
    finally:
        for left in Path(tempfile.gettempdir(), "ray").glob(f"cluster-test-{os.getpid()}.*"):
            left.unlink()


@pytest.fixture
def head(without_java: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A running Ray with two CPUs and a job server."""
    for name, value in environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="5e" * 32).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster  # reads the environment

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = Cluster()
    with tempfile.TemporaryDirectory() as folder:
        found.add_node(
            num_cpus=2,
            object_store_memory=2**27,
            temp_dir=folder,
            include_dashboard=True,
            dashboard_port=port,
            dashboard_agent_listen_port=0,  # the default is the same for every Ray
        )
        # As `ray start` does: without it, a job joins any Ray of this machine.
        (Path(folder) / "ray_current_cluster").write_text(found.address)
        yield found
        found.shutdown()


def test_ray_job_submit_scores_as_one_process_does(
    run: Path, expected: Any, head: Any, tmp_path: Path
) -> None:
    pytest.importorskip("aiohttp_cors", reason="ray job submit needs ray[default]")
    (tmp_path / "launcher").mkdir()
    shutil.copy(ROOT / "launcher/evaluate.py", tmp_path / "launcher")
    set_timeout(run, 100)  # the head, its agents and other tests share two cores
    address = f"http://{head.webui_url}"
    submit = ["job", "submit", "--address", address, "--working-dir", str(tmp_path / "launcher")]
    command = [sys.executable, "evaluate.py", "--run", str(run)]
    result = ray(*submit, "--", *command, "--workers", "2", "--address", "auto")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "decoded 5 images" in result.stdout
    assert results(run) == expected


def set_timeout(run: Path, timeout_s: float) -> None:
    config = checkpoint(run, "best") / "config.json"
    settings = json.loads(config.read_text())
    settings["run"]["ray"]["timeout_s"] = timeout_s
    config.write_text(json.dumps(settings))


@pytest.mark.parametrize("listens", [False, True])
def test_an_address_without_ray_is_one_line(run: Path, listens: bool) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        if listens:
            other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        set_timeout(run, 3)
        wanted = EvaluationRequest(run, "test", workers=2, address=address)
        with pytest.raises(PoolError, match=f"^ray.address {address}: no Ray answered within 3 s"):
            Evaluation.open(wanted, read_run(run)).evaluate()


def test_impossible_workers_are_refused(run: Path) -> None:
    for wanted in (
        EvaluationRequest(run, "test", workers=-1),
        EvaluationRequest(run, "test", workers=1, cpus=0),
    ):
        with pytest.raises(ConfigError, match=r"^command line: --workers .* expected 0 workers"):
            Evaluation.open(wanted, read_run(run))
