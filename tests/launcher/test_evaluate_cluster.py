"""The evaluation on a cluster: by ``ray submit`` over ssh, and by ``ray job submit``."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.launcher.conftest import ROOT, environment, launch, refused

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


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def here(run: Path) -> Any:
    """What plain ``python launcher/evaluate.py`` writes."""
    result = launch("evaluate.py", "--run", str(run))
    assert result.returncode == 0, result.stderr
    found = results(run)
    shutil.rmtree(run / "scores")
    shutil.rmtree(run / "captions")
    return found


def results(run: Path) -> Any:
    """Captions and scores, without the time that they took."""
    scores = json.loads((run / "scores" / "test-beam3.json").read_text())
    del scores["run, beam 3"]["images_per_s"]
    return scores, (run / "captions" / "test-beam3.json").read_text()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Keys and the command that speaks to an sshd whose users live in ``tmp_path / "home"``."""
    home = tmp_path / "home"
    home.mkdir()
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-N", "", "-f", tmp_path / name], check=True)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where it has no service
    (tmp_path / "sshd_config").write_text(
        f"HostKey {tmp_path}/host\nAuthorizedKeysFile {tmp_path}/user.pub\nStrictModes no\n"
        f"PermitRootLogin yes\nUsePAM no\nSetEnv HOME={home}\n"
    )
    yield {
        "ssh_user": getpass.getuser(),
        "ssh_private_key": str(tmp_path / "user"),
        "ssh_proxy_command": f"{SSHD} -i -f {tmp_path}/sshd_config",
    }


@pytest.mark.skipif(
    not all([SSHD, shutil.which("ssh"), shutil.which("rsync")]),
    reason="there is no sshd, ssh or rsync; apt-get install openssh-server rsync",
)
def test_ray_submit(run: Path, here: Any, machine: dict[str, str], tmp_path: Path) -> None:
    cluster = yaml.safe_load((ROOT / "launcher/ray/cluster.yaml").read_text())
    cluster |= {"cluster_name": f"test-{os.getpid()}", "auth": machine, "file_mounts": {}}
    cluster["provider"]["head_ip"] = "127.0.0.1"
    path = f"export PATH={BIN}:$PATH PYTHONPATH={ROOT}"
    cluster["setup_commands"] = [f"echo '{path}' >> ~/.bashrc"]
    cluster["head_start_ray_commands"] = []  # `ray stop` would end others' on this machine
    config = tmp_path / "cluster.yaml"
    config.write_text(yaml.safe_dump(cluster))
    try:
        result = ray(
            *("submit", "--start", str(config), "launcher/evaluate.py", "--", "--run", str(run))
        )
        print(result.stdout, result.stderr)
        assert result.returncode == 0, result.stderr
        assert results(run) == here
        assert (tmp_path / "home" / "evaluate.py").is_file()
    finally:
        for left in Path("/tmp/ray").glob(f"cluster-test-{os.getpid()}.*"):
            left.unlink()
