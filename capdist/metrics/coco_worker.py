"""The Java programs of pycocoevalcap (PTB tokeniser, METEOR, SPICE), each in a child process.

`Worker` starts ``python -m capdist.metrics.coco_worker NAME INPUT OUTPUT`` with a time limit; both
files are JSON. Whatever Java does (die, hang, run out of memory) ends with the child.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from capdist.errors import CapdistError

Texts = dict[int, list[str]]

#: SPICE's sub-categories, as its jar names them and as papers do. "All" is SPICE itself.
SPICE_NAMES = {
    "All": "SPICE",
    "Object": "SPICE Object",
    "Relation": "SPICE Relation",
    "Attribute": "SPICE Attribute",
    "Color": "SPICE Color",
    "Cardinality": "SPICE Count",
    "Size": "SPICE Size",
}


class WorkerError(CapdistError):
    """A Java program failed or ran out of time; the message says which."""


class Worker:
    """One program of this module in a process of its own; it and its Java end with the block.

    The time limit counts from the start. Other work goes on meanwhile, other programs too.

    Args:
        name: PTB, METEOR or SPICE.
        data: sentences for PTB, else the references and the captions of each image, as two lists.
        timeout_s: seconds after which it is killed.
    """

    def __init__(self, name: str, data: Any, timeout_s: float) -> None:
        self._timeout_s, self._end = timeout_s, time.monotonic() + timeout_s
        self._folder = tempfile.TemporaryDirectory(prefix="capdist-")
        self._answer, self._said = (Path(self._folder.name, file) for file in ("output", "said"))
        source = Path(self._folder.name, "input")
        source.write_text(json.dumps(data), encoding="utf-8")
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __spec__.name, name, str(source), str(self._answer)],
                stdout=subprocess.DEVNULL,
                stderr=said,
                env=_worker_environment(),
                start_new_session=True,  # Java is in its process group, and goes with it
            )

    def result(self) -> Any:
        """What the program found; waits for it.

        Raises:
            WorkerError: if it failed or ran out of time.
        """
        try:
            status = self._process.wait(max(0, self._end - time.monotonic()))
        except subprocess.TimeoutExpired as error:
            raise WorkerError(f"timed out after {self._timeout_s:g} s") from error
        if status:
            said = self._said.read_text(errors="replace").strip()
            raise WorkerError(said.split("\n")[-1] or f"ended with status {status}")
        return json.loads(self._answer.read_bytes())

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._folder.cleanup()


def _worker_environment() -> dict[str, str]:
    """The environment, plus what finds our packages and what METEOR needs of Java.

    METEOR prints numbers in the user's locale and dies where that has a decimal comma.
    """
    options = "-Dfile.encoding=UTF-8 -Duser.language=en -Duser.country=US"
    options = f"{os.environ.get('JAVA_TOOL_OPTIONS', '')} {options}"
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return {**os.environ, "JAVA_TOOL_OPTIONS": options.strip(), "PYTHONPATH": path}


def ptb(sentences: Sequence[str]) -> list[str]:
    """The sentences as the Penn Treebank tokeniser splits them, punctuation dropped.

    The same program and options as pycocoevalcap's PTBTokenizer, which writes its input into the
    installed package: that folder may be read-only, so here the sentences go through a pipe.
    Each must be one line.
    """
    from pycocoevalcap.tokenizer import ptbtokenizer

    jar = Path(ptbtokenizer.__file__).with_name(ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR)
    command = ["java", "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer"]
    java = subprocess.run(
        [*command, "-preserveLines", "-lowerCase"],
        input="".join(f"{sentence}\n" for sentence in sentences).encode(),
        capture_output=True,
    )
    if java.returncode:
        raise RuntimeError(_java_said(java.stderr))
    lines = java.stdout.decode().split("\n")[:-1]
    if len(lines) != len(sentences):
        raise RuntimeError(f"{len(sentences)} captions went in, {len(lines)} came out")
    drop = set(ptbtokenizer.PUNCTUATIONS)
    return [" ".join(word for word in line.split() if word not in drop) for line in lines]


def meteor(references: Texts, captions: Texts) -> dict[str, float]:
    """METEOR 1.5 as a fraction, by pycocoevalcap."""
    from pycocoevalcap.meteor.meteor import Meteor

    scorer = Meteor()
    try:
        return {"METEOR": scorer.compute_score(references, captions)[0]}
    except (OSError, ValueError) as error:  # Java died: a broken pipe, or an empty line for a score
        scorer.lock.release()  # compute_score still holds it, and Meteor.__del__ waits for it
        scorer.meteor_p.kill()
        with suppress(OSError):  # else Meteor.__del__ trips over the unwritten rest, and says so
            scorer.meteor_p.stdin.close()
        raise RuntimeError(_java_said(scorer.meteor_p.stderr.read())) from error


def spice(references: Texts, captions: Texts) -> dict[str, float | None]:
    """SPICE and its sub-categories as fractions, by pycocoevalcap."""
    from pycocoevalcap.spice.spice import Spice

    return spice_means(Spice().compute_score(references, captions)[1])


def spice_means(images: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, float | None]:
    """The mean F-score of each category over the images where it is defined.

    A category is undefined (NaN) for an image if neither the caption nor a reference speaks of it,
    and None here if that is so for every image.
    """
    means: dict[str, float | None] = {}
    for category, name in SPICE_NAMES.items():
        scores = np.array([image[category]["f"] for image in images])
        defined = scores[~np.isnan(scores)]
        means[name] = float(defined.mean()) if len(defined) else None
    return means


def _java_said(stderr: bytes) -> str:
    lines = stderr.decode(errors="replace").split("\n")
    said = [line for line in lines if line.strip() and not line.startswith("Picked up")]
    return f"java: {said[0].strip()}" if said else "java ended without a word"


def main(name: str, source: Path, target: Path) -> None:
    """Run one program on a JSON file and write its answer to another."""
    data: Any = json.loads(source.read_bytes())
    if name == "PTB":
        answer: Any = ptb(data)
    else:
        references, captions = (dict(enumerate(texts)) for texts in data)
        answer = (meteor if name == "METEOR" else spice)(references, captions)
    target.write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
