"""The Java programs of pycocoevalcap (PTB tokeniser, METEOR, SPICE), each in a child process.

`JavaProgram` starts ``python -m capdist.metrics.coco_java NAME INPUT OUTPUT`` with a time limit;
both files are JSON. If Java crashes, hangs or runs out of memory, only the child is affected.
"""

from __future__ import annotations

import json
import os
import re
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

#: Packages of java.base whose private fields SPICE's cache reads.
_OPENED = ("java.lang", "java.math", "java.util", "java.util.concurrent", "java.net", "java.text")
_PICKED_UP, _NAMED = re.compile(r"(NOTE: )?Picked up"), re.compile(r"(Exception|Error)\b")

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


class JavaError(CapdistError):
    """A Java program failed or timed out."""


class JavaProgram:
    """One Java program in a child process; leaving the ``with`` block kills both.

    It runs in the background from its construction on, which is when the time limit starts.

    Args:
        name: PTB, METEOR or SPICE.
        data: sentences for PTB, else the references and the captions of each image, as two lists.
        timeout_s: time limit in seconds.
    """

    def __init__(self, name: str, data: Any, timeout_s: float) -> None:
        self._timeout_s, self._deadline = timeout_s, time.monotonic() + timeout_s
        self._folder = tempfile.TemporaryDirectory(prefix="capdist-")
        self._output, self._errors = (
            Path(self._folder.name, name) for name in ("output", "errors")
        )
        source = Path(self._folder.name, "input")
        source.write_text(json.dumps(data), encoding="utf-8")
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __spec__.name, name, str(source), str(self._output)],
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env=java_environment(),
                start_new_session=True,  # killing its process group kills Java too
            )

    def result(self) -> Any:
        """Wait for the program's result.

        Raises:
            JavaError: if it failed or timed out.
        """
        try:
            status = self._process.wait(max(0, self._deadline - time.monotonic()))
        except subprocess.TimeoutExpired as error:
            raise JavaError(f"timed out after {self._timeout_s:g} s") from error
        if status:
            raise JavaError(failure(self._errors.read_bytes()) or f"exit status {status}")
        return json.loads(self._output.read_bytes())

    def __enter__(self) -> JavaProgram:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._folder.cleanup()


def java_environment() -> dict[str, str]:
    """The environment with this process's ``sys.path``, and options for Java.

    METEOR prints numbers in the user's locale, and fails on its own output where that has a decimal
    comma. SPICE keeps parsed captions by a library that reads private fields of Java's own classes,
    which Java 17 refuses unless their packages are opened; Java 8 does not read that variable.
    """
    options = "-Dfile.encoding=UTF-8 -Duser.language=en -Duser.country=US"
    options = f"{os.environ.get('JAVA_TOOL_OPTIONS', '')} {options}"
    opened = (f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in _OPENED)
    jdk_options = " ".join([os.environ.get("JDK_JAVA_OPTIONS", ""), *opened])
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return {
        **os.environ,
        "JAVA_TOOL_OPTIONS": options.strip(),
        "JDK_JAVA_OPTIONS": jdk_options.strip(),
        "PYTHONPATH": path,
    }


def ptb(sentences: Sequence[str]) -> list[str]:
    """Sentences split by the Penn Treebank tokeniser, without punctuation.

    The same program and options as pycocoevalcap's PTBTokenizer. That one writes its input into the
    installed package, which may be read-only; here the sentences go through a pipe. Each must be
    one line.
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
        raise RuntimeError(_java_error(java.stderr))
    lines = java.stdout.decode().split("\n")[:-1]
    if len(lines) != len(sentences):
        raise RuntimeError(f"the tokeniser returned {len(lines)} of {len(sentences)} captions")
    dropped = set(ptbtokenizer.PUNCTUATIONS)
    return [" ".join(word for word in line.split() if word not in dropped) for line in lines]


def meteor(references: Texts, captions: Texts) -> dict[str, float]:
    """METEOR 1.5 as a fraction, by pycocoevalcap."""
    from pycocoevalcap.meteor.meteor import Meteor

    scorer = Meteor()
    try:
        return {"METEOR": scorer.compute_score(references, captions)[0]}
    except (
        OSError,
        ValueError,
    ) as error:  # Java crashed: a broken pipe, or an empty line instead of a score
        scorer.lock.release()  # compute_score still holds it, and Meteor.__del__ waits for it
        scorer.meteor_p.kill()
        with suppress(OSError):  # else Meteor.__del__ would print an error about the unflushed rest
            scorer.meteor_p.stdin.close()
        raise RuntimeError(_java_error(scorer.meteor_p.stderr.read())) from error


def spice(references: Texts, captions: Texts) -> dict[str, float | None]:
    """SPICE and its sub-categories as fractions, by pycocoevalcap."""
    from pycocoevalcap.spice.spice import Spice

    return spice_means(Spice().compute_score(references, captions)[1])


def spice_means(images: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, float | None]:
    """The mean F-score of each category over the images where it is defined.

    A category is undefined (NaN) for an image if neither the caption nor a reference has any tuple
    of it, and None here if that holds for every image.
    """
    means: dict[str, float | None] = {}
    for category, name in SPICE_NAMES.items():
        scores = np.array([image[category]["f"] for image in images])
        defined = scores[~np.isnan(scores)]
        means[name] = float(defined.mean()) if len(defined) else None
    return means


def failure(stderr: bytes) -> str:
    """Why a child process failed: its last line, or Java's line if Java wrote there itself."""
    last = stderr.decode(errors="replace").strip().split("\n")[-1]
    if "CalledProcessError" not in last:
        return last
    return _java_error(stderr.partition(b"Traceback (most recent call last)")[0])


def _java_error(stderr: bytes) -> str:
    """Java's first line, or the first that names an exception."""
    lines = [line.strip() for line in stderr.decode(errors="replace").split("\n")]
    lines = [line for line in lines if line and not _PICKED_UP.match(line)]
    named = [line for line in lines if _NAMED.search(line)]
    return f"java: {(named or lines)[0]}" if lines else "java exited without a message"


def main(name: str, source: Path, target: Path) -> None:
    """Run one program on a JSON file and write its result to another."""
    data: Any = json.loads(source.read_bytes())
    if name == "PTB":
        result: Any = ptb(data)
    else:
        references, captions = (dict(enumerate(texts)) for texts in data)
        result = (meteor if name == "METEOR" else spice)(references, captions)
    target.write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
