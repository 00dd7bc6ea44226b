"""Injects faults into runs at random moments and tabulates how the runs recover.

``python -m tests.faults --log faults.jsonl --page docs/results/faults.md`` writes the page; run
again with the same log, it continues where it was interrupted.
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
from tests.faults.scenario import Outcome, ReferenceRuns, Scenario, TooLateError

PAGE = """# Fault injection results

A small GLIED is trained on tiny shards for 28 steps, by two ranks of plain PyTorch unless the row
says otherwise, with a checkpoint every 5 steps and after every epoch of 7. A fault is injected at a
random moment (seed {seed}). *Detected*: seconds until the message is printed, median and maximum.
*Lost*: steps that `--resume auto` trains again; a dash if the run recovers by itself. *Identical*:
how often every loss and every score of the run, and its best weights, equalled those of an
uninterrupted run bit for bit; for the evaluation, its captions.

| fault | injected | detected (s) | message | lost | identical |
| --- | --: | --: | --- | --: | --: |
{rows}

Measured with `python -m tests.faults --log faults.jsonl --page docs/results/faults.md`, on CPU
processes that share one core with other work.

{failures}
"""


def run_scenario(fault: Fault, number: int, seed: int, references: ReferenceRuns) -> Outcome | str:
    """Inject a fault once; returns the outcome, or the error as text."""
    for attempt in range(5):
        folder = references.folder / f"{fault.name}-{number}-{attempt}"
        rng = random.Random(f"{seed} {fault.name} {number} {attempt}")
        try:
            references.run(fault.setup)
            outcome = fault.inject(Scenario(references, fault.setup, folder, rng))
        except TooLateError:
            continue
        except Exception as error:
            return " ".join(f"{type(error).__name__}: {error}".split())
        message = outcome.message.replace(f"{folder}/", "").replace(f"{references.folder}/", "")
        return replace(outcome, message=message)
    return "the moment was missed in every attempt"


def table_row(fault: Fault, outcomes: list[Outcome | str]) -> str:
    good = [outcome for outcome in outcomes if isinstance(outcome, Outcome)]
    seconds = [outcome.detected_s for outcome in good if outcome.detected_s is not None]
    detected = f"{median(seconds):.1f}, {max(seconds):.1f}" if seconds else "–"
    message = next((f"``{outcome.message}``" for outcome in good if outcome.message), "none")
    lost = [outcome.lost_steps for outcome in good if outcome.lost_steps is not None]
    span = f"{min(lost)} to {max(lost)}" if lost else "–"
    cells = [fault.description, len(outcomes), detected, message.replace("|", r"\|"), span]
    return f"| {' | '.join(map(str, cells))} | {len(good)} of {len(outcomes)} |"


def main() -> int:
    """Inject what the log does not have yet, and write the page; 1 if a run did not recover."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--times", type=int, default=5, help="injections per fault")
    parser.add_argument("--seed", type=int, default=1, help="of the random moments")
    parser.add_argument("--only", nargs="+", choices=[fault.name for fault in FAULTS])
    parser.add_argument("--log", type=Path, required=True, help="JSON lines of all outcomes so far")
    parser.add_argument("--page", type=Path, required=True, help="Markdown page to write")
    args = parser.parse_args()
    chosen = [fault for fault in FAULTS if not args.only or fault.name in args.only]
    outcomes = read_log(args.log, [fault for fault in chosen if not fault.unavailable()])
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        references = ReferenceRuns(Path(name))
        # Every fault once, then every fault again: an interrupted log has some of each.
        for number, fault in product(range(args.times), outcomes):
            if number < len(outcomes[fault]):
                continue
            outcome = run_scenario(fault, number, args.seed, references)
            outcomes[fault].append(outcome)
            with args.log.open("a") as log:
                result = outcome if isinstance(outcome, str) else asdict(outcome)
                log.write(json.dumps({"fault": fault.name, "outcome": result}) + "\n")
            print(f"{fault.name} {number}: {outcome}", flush=True)
            args.page.write_text(format_page(read_log(args.log, FAULTS), args.seed))
    return int(any(isinstance(one, str) for several in outcomes.values() for one in several))


def read_log(log: Path, faults: Sequence[Fault]) -> dict[Fault, list[Outcome | str]]:
    """The outcomes of earlier injections, by fault."""
    outcomes: dict[Fault, list[Outcome | str]] = {fault: [] for fault in faults}
    by_name = {fault.name: fault for fault in faults}
    for line in log.read_text().splitlines() if log.exists() else []:
        record = json.loads(line)
        if fault := by_name.get(record["fault"]):
            result = record["outcome"]
            outcomes[fault].append(result if isinstance(result, str) else Outcome(**result))
    return outcomes


def format_page(outcomes: dict[Fault, list[Outcome | str]], seed: int) -> str:
    rows = [table_row(fault, several) for fault, several in outcomes.items() if several]
    failures = [
        f"Failed, {fault.description}: {one}"
        for fault, several in outcomes.items()
        for one in several
        if isinstance(one, str)
    ]
    text = PAGE.format(seed=seed, rows="\n".join(rows), failures="\n\n".join(failures))
    return text.rstrip() + "\n"


if __name__ == "__main__":
    sys.exit(main())
