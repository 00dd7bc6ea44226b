"""Coverage-guided fuzzing of the shard readers with Google's atheris.

    pip install atheris
    python -m tests.fuzz.fuzz_shards --minutes 60

The first byte of an input chooses a file or member, which the other bytes replace. Inputs that
raise an error other than `ShardError` are stored in ``--out``, one for each kind of failure; if
reading takes more than 10 s or 1 GB, the search ends. The last line has the number of inputs, the
coverage and the failures.

The fuzzer's own memory grows by nearly 1 kB per input, so it is restarted every few minutes with
the inputs that increased coverage.
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

EXECUTED = re.compile(r"stat::number_of_executed_units: *(\d+)")
COVERAGE = re.compile(r"cov: (\d+)")
#: Minutes until the fuzzer is restarted.
ROUND_MINUTES = 10.0


def main() -> int:
    """Fuzz in child processes, which libFuzzer ends.

    Returns:
        1 if there are failures.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--out", type=Path, default=Path("build/fuzz"))
    args = parser.parse_args()
    corpus = args.out / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    start, old, inputs, coverage = time.monotonic(), set(failures(args.out)), 0, 0
    while not (new := sorted(set(failures(args.out)) - old)):
        remaining = args.minutes - (time.monotonic() - start) / 60
        if remaining <= 0:
            break
        output = fuzz(args.out, corpus, min(remaining, ROUND_MINUTES))
        if not (executed := EXECUTED.findall(output)):
            sys.exit(f"error: the fuzzer did not run: {output.splitlines()[-1]}")
        inputs += int(executed[0])
        coverage = max(map(int, [*COVERAGE.findall(output), coverage]))
    print(
        f"{(time.monotonic() - start) / 60:.1f} minutes, {inputs} inputs, coverage {coverage}; "
        f"{len(new)} kinds of failure: {', '.join(new) or 'none'}"
    )
    return bool(new)


def fuzz(out: Path, corpus: Path, minutes: float) -> str:
    """Run a fuzzer that starts from the corpus; its output."""
    limits = [f"-max_total_time={minutes * 60:.0f}", "-timeout=10", "-rss_limit_mb=1024"]
    options = [*limits, "-print_final_stats=1", f"-artifact_prefix={out}/ended-"]
    child = [sys.executable, "-m", "tests.fuzz.fuzz_shards", "child", str(out)]
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with (out / "log").open("w") as log, tempfile.TemporaryDirectory(dir=memory) as folder:
        environment = {**os.environ, "TMPDIR": folder}
        command = [*child, str(corpus), *options]
        subprocess.run(command, stderr=log, stdout=log, env=environment, check=False)
    return (out / "log").read_text(errors="replace")


def failures(out: Path) -> list[str]:
    """The names of the stored failures."""
    return [path.name for path in out.iterdir() if path.name.startswith(("raised-", "ended-"))]


def child(out: Path, arguments: list[str]) -> None:
    """Fuzz; never returns, because libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["shards", "tarfile", "numpy.lib"]):
        from shards.schema import ShardError
        from tests.fuzz.targets import Targets

    targets = Targets(Path(tempfile.mkdtemp()))
    names = sorted(targets.valid)
    for number, name in enumerate(names):
        (out / "corpus" / f"valid-{number}").write_bytes(bytes([number]) + targets.valid[name])

    def run_input(data: bytes) -> None:
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

    atheris.Setup([sys.argv[0], *arguments], run_input)
    atheris.Fuzz()


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        child(Path(sys.argv[2]), sys.argv[3:])
    sys.exit(main())
