"""Coverage-guided fuzzing of what reads shards, by Google's atheris, which nothing else needs.

    pip install atheris
    python -m tests.fuzz.fuzz_shards --minutes 60

An input is a byte that chooses the file or member, and what stands in its place. Whatever is raised
and is no `ShardError` is kept in ``--out``, one input of each kind; a reader that takes more than
10 s or 1 GB ends the search. The last line says how much was tried, and what was found.

The fuzzer's own memory grows by nearly 1 kB an input, so it begins anew every few minutes, with the
inputs that it has found to be of use.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

STATS = re.compile(r"stat::number_of_executed_units: *(\d+)")
COVERAGE = re.compile(r"cov: (\d+)")
#: Minutes until the fuzzer begins anew.
ROUND = 10.0


def main() -> int:
    """Fuzz in a child, whose end libFuzzer itself brings about; 1 if anything was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--out", type=Path, default=Path("build/fuzz"))
    args = parser.parse_args()
    corpus = args.out / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    began, before, runs, covered = time.monotonic(), set(found(args.out)), 0, 0
    while not (new := sorted(set(found(args.out)) - before)):
        left = args.minutes - (time.monotonic() - began) / 60
        if left <= 0:
            break
        said = fuzz(args.out, corpus, min(left, ROUND))
        if not (executed := STATS.findall(said)):
            sys.exit(f"error: the fuzzer did not run: {said.splitlines()[-1]}")
        runs += int(executed[0])
        covered = max(map(int, [*COVERAGE.findall(said), covered]))
    print(
        f"{(time.monotonic() - began) / 60:.1f} minutes, {runs} inputs, {covered} places covered; "
        f"{len(new)} kinds of failure: {', '.join(new) or 'none'}"
    )
    return bool(new)


def fuzz(out: Path, corpus: Path, minutes: float) -> str:
    """What a fuzzer prints that starts from what others have found."""
    limits = [f"-max_total_time={minutes * 60:.0f}", "-timeout=10", "-rss_limit_mb=1024"]
    options = [*limits, "-print_final_stats=1", f"-artifact_prefix={out}/ended-"]
    child = [sys.executable, "-m", "tests.fuzz.fuzz_shards", "child", str(out)]
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with (out / "log").open("w") as log, tempfile.TemporaryDirectory(dir=memory) as folder:
        environment = {**os.environ, "TMPDIR": folder}
        command = [*child, str(corpus), *options]
        subprocess.run(command, stderr=log, stdout=log, env=environment, check=False)
    return (out / "log").read_text(errors="replace")


def found(out: Path) -> list[str]:
    """The failures that are kept."""
    return [path.name for path in out.iterdir() if path.name.startswith(("raised-", "ended-"))]


def child(out: Path, arguments: list[str]) -> None:
    """Never returns: libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["shards", "tarfile", "numpy.lib"]):
        from shards.schema import ShardError
        from tests.fuzz.targets import Targets

    targets = Targets(Path(tempfile.mkdtemp()))
    names = sorted(targets.valid)
    for number, name in enumerate(names):
        (out / "corpus" / f"valid-{number}").write_bytes(bytes([number]) + targets.valid[name])

    def one(data: bytes) -> None:
        if not data:
            return
        name = names[data[0] % len(names)]
        try:
            targets(name, data[1:])
        except ShardError:
            pass
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            kind = f"{name}-{type(error).__name__}-{Path(frame.filename).stem}-{frame.lineno}"
            (out / f"raised-{kind.replace(' ', '_')}").write_bytes(data)

    atheris.Setup([sys.argv[0], *arguments], one)
    atheris.Fuzz()


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        child(Path(sys.argv[2]), sys.argv[3:])
    sys.exit(main())
