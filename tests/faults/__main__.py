"""Faults at random moments, and what becomes of the run.

``python -m tests.faults --log faults.jsonl --page docs/results/faults.md`` measures the page anew;
called again with the same log, it goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from statistics import median

from tests.faults.faults import FAULTS, Fault
from tests.faults.trial import Found, MissedError, Trial, Workshop

PAGE = """# Faults

A small GLIED on tiny shards, trained for 28 steps by two ranks of plain torch unless the row says
otherwise, with a checkpoint every 5 steps and behind every epoch of 7. At a random moment (seed
{seed}) something happens. *Noticed*: the seconds until the line is printed, median and largest.
*Lost*: steps that `--resume auto` takes again; a dash where the run goes on by itself. *Same*: how
often every loss and every score of the run, and its best weights, were in the end those of the run
that nothing happened to, bit for bit; for the evaluation, the captions.

| what happens | tried | noticed (s) | the line | lost | same |
| --- | --: | --: | --- | --: | --: |
{rows}

Measured by `python -m tests.faults --log faults.jsonl --page docs/results/faults.md`, on CPU
processes that share one core with other work.

{others}
"""


def attempt(fault: Fault, number: int, seed: int, workshop: Workshop) -> Found | str:
    """What one trial found, or what went wrong."""
    for again in range(5):
        folder = workshop.folder / f"{fault.name}-{number}-{again}"
        draw = random.Random(f"{seed} {fault.name} {number} {again}")
        try:
            workshop.whole(fault.kind)
            found = fault.happen(Trial(workshop, fault.kind, folder, draw))
        except MissedError:
            continue
        except Exception as error:
            return " ".join(f"{type(error).__name__}: {error}".split())
        line = found.line.replace(f"{folder}/", "").replace(f"{workshop.folder}/", "")
        return replace(found, line=line)
    return "the moment was missed each time"


def row(fault: Fault, tries: list[Found | str]) -> str:
    """A line of the page."""
    good = [found for found in tries if isinstance(found, Found)]
    seconds = [found.noticed_s for found in good if found.noticed_s is not None]
    noticed = f"{median(seconds):.1f}, {max(seconds):.1f}" if seconds else "–"
    said = next((f"``{found.line}``" for found in good if found.line), "nothing: it goes on")
    lost = [found.lost for found in good if found.lost is not None]
    span = f"{min(lost)} to {max(lost)}" if lost else "–"
    cells = [fault.what, len(tries), noticed, said.replace("|", r"\|"), span]
    return f"| {' | '.join(map(str, cells))} | {len(good)} of {len(tries)} |"


def main() -> int:
    """Try what was not tried so often yet, and write the page; 1 where one ended otherwise."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--times", type=int, default=5, help="that each fault is tried")
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    parser.add_argument("--only", nargs="+", choices=[fault.name for fault in FAULTS])
    parser.add_argument("--log", type=Path, required=True, help="of what was tried so far")
    parser.add_argument("--page", type=Path, required=True, help="that is written")
    args = parser.parse_args()
    chosen = [fault for fault in FAULTS if not args.only or fault.name in args.only]
    tried = read(args.log, [fault for fault in chosen if not fault.absent()])
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        workshop = Workshop(Path(name))
        # Once each, then again: whoever interrupts it has some of all, and may go on later.
        for number, fault in product(range(args.times), tried):
            if number < len(tried[fault]):
                continue
            found = attempt(fault, number, args.seed, workshop)
            tried[fault].append(found)
            with args.log.open("a") as log:
                result = found if isinstance(found, str) else asdict(found)
                log.write(json.dumps({"fault": fault.name, "found": result}) + "\n")
            print(f"{fault.name} {number}: {found}", flush=True)
            args.page.write_text(page(read(args.log, FAULTS), args.seed))
    return int(any(isinstance(one, str) for tries in tried.values() for one in tries))


def read(log: Path, faults: Sequence[Fault]) -> dict[Fault, list[Found | str]]:
    """What was found before."""
    tried: dict[Fault, list[Found | str]] = {fault: [] for fault in faults}
    for line in log.read_text().splitlines() if log.exists() else []:
        record = json.loads(line)
        for fault in faults:
            if fault.name == record["fault"]:
                found = record["found"]
                tried[fault].append(found if isinstance(found, str) else Found(**found))
    return tried


def page(tried: dict[Fault, list[Found | str]], seed: int) -> str:
    """What was found so far."""
    rows = [row(fault, tries) for fault, tries in tried.items() if tries]
    others = [
        f"Otherwise, {fault.what}: {one}"
        for fault, tries in tried.items()
        for one in tries
        if isinstance(one, str)
    ]
    return PAGE.format(seed=seed, rows="\n".join(rows), others="\n\n".join(others)).rstrip() + "\n"


if __name__ == "__main__":
    sys.exit(main())
