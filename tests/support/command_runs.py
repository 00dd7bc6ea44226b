"""Commands of the documentation as they are run in tests: in this process, and on tiny data."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from glob import glob
from itertools import pairwise

from capdist.commands.main import new_parser as capdist_parser
from capdist.config.run_config import Config, load_config
from capdist.errors import exit_status
from shards.__main__ import new_parser as shards_parser
from shards.command_line import run_command
from tests.support.command_checks import ANY_KEY, PLACEHOLDERS
from tests.support.documentation import Command
from tests.support.photographs import QUARTERS

#: What a block may need, by the comment above it.
NEEDS = ("needs a GPU", "needs a cluster", "needs the data")
BENCHMARKS = {
    "decode": "tests/launcher/test_bench.py::test_decode_writes_consistent_figures",
    "reward": "tests/launcher/test_bench.py::test_reward_writes_consistent_figures",
    "order": "tests/launcher/test_bench.py::test_order_writes_consistent_figures",
    "features": "tests/benchmarks/test_features.py::test_shards_without_a_probe_show_objects_alone",
    "load": "tests/benchmarks/test_load.py::test_readers_read_every_image",
    "neighbour": "tests/benchmarks/test_mixing.py::test_neighbours_and_again_equal_counted_pairs",
    "scale": "tests/benchmarks/test_cost.py::test_steps_run_on_two_ranks",
    "serve": "tests/benchmarks/test_serve.py::test_captioner_and_server_are_measured_in_turn",
    "start": "tests/benchmarks/test_start.py::test_starts_are_measured_at_every_size",
    "train": "tests/benchmarks/test_train.py::test_all_programs_read_the_same_batches",
}
_EXAMPLES = "tests/test_contributing.py::test_the_examples_pass_their_contracts"
_SERVICES = "tests/tracking/test_services.py::"
#: Commands that another test runs, or continuous integration; the first pattern that is found.
ELSEWHERE = {
    r"^make (install|docs|test|lint)$|^source \.venv|^python -m mkdocs serve": ".ci/run",
    r"^python -m (pytest|capdist\.config\.schema)": _EXAMPLES,
    r"^python -m tests\.fuzz": "tests/shards/test_untrusted_shards.py::test_valid_files_are_read",
    **{rf"bench\.py {name}\b": where for name, where in BENCHMARKS.items()},
    r"^(capdist|python launcher/)\W*sweep": "tests/launcher/test_sweep.py::"
    "test_the_table_has_the_means_over_seeds",
    r"^capdist serve": "tests/serving/test_stop.py::"
    "test_sigterm_finishes_the_queue_and_refuses_others",
    r"^curl .*forced": "tests/serving/test_api.py::test_options_change_the_caption",
    r"^curl": "tests/serving/test_api.py::test_an_answer_is_what_the_captioner_says",
    r"s3://": "tests/shards/test_remote_s3.py::test_bucket_gives_the_same_as_the_folder",
    r"https://host": "tests/shards/test_remote.py::test_url_gives_the_same_as_the_folder",
    r"tracking=wandb|^wandb login": _SERVICES + "test_wandb_has_the_run",
    r"tracking=mlflow": _SERVICES + "test_mlflow_has_the_run",
    r"ray\.address=auto|^ray start|ray get-auth-token": "tests/slurm/test_slurm.py::"
    "test_two_nodes_with_deepspeed_and_ray_train_as_one_process_does",
    r"--projection": "tests/shards/test_extract.py::"
    "test_the_backbone_that_is_stated_is_compared_with_the_files",
    r"--ray ": "tests/workers/test_extraction.py::test_a_lost_worker_changes_no_feature",
    r"^tensorboard": "tests/launcher/test_train.py::test_a_run_writes_its_documented_files",
    r"--submission": "tests/launcher/test_caption.py::"
    "test_a_submission_is_packed_as_the_server_expects_it",
}
#: Of every model that has such an option.
_SIZES = {"width": 16, "embedding": 8, "heads": 2, "hidden": 24}
_RUN = ("engine=torch", "data.workers=0", "data.min_count=1", "decoding.max_words=5")
_STAGES = {
    "mil": {"words": 20, "folds": 2, "hidden": 12},
    "scst": {"samples": 2, "reward.actors": 0},
    "dpo": {"samples": 2, "reward.actors": 0},
}
#: Options whose values are those of real data.
_VALUES = {"--train": "16", "--val": "4", "--test": "4", "--number": "0"}
_VALUES["--backbone"] = QUARTERS
#: What stands for names of the reader's.
_NAMES = {"CAPTIONS": "dataset.json", "FEATURES": "features", "NAME": "extracted"}
_NAMES |= {"DIR": "corpus/other", "2000012": "2000001", "2000031": "2000002"}
#: Files of features that the run of a command reads.
_FEATURES = {"runs/glied": "runs/mine", "features_*.npz": "new/*.npz"}
_FEATURES["flickr8k/features_val_0.npz"] = "new/*.npz"


def run_elsewhere(command: Command) -> str | None:
    """The test that runs a command; None if none is known."""
    line = shlex.join(command.words)
    return next((where for found, where in ELSEWHERE.items() if re.search(found, line)), None)


def kind(words: list[str]) -> tuple[object, ...]:
    """What distinguishes a command from others: of those of one kind the first is run.

    All of them are parsed, and their configs loaded, by tests/website/test_commands.py.
    """
    options = frozenset(word for word in words if word.startswith("--") and word != "--set")
    if "--resume" in words:
        return "train", "--resume"
    if words[0] == "train":
        config = _config(words)
        objectives = tuple(stage.objective for stage in config.stages)
        return "train", config.model.name, objectives, "mine" in str(config.data.shards)
    features = words[words.index("--features") + 1] if "--features" in words else ""
    return words[0], options, features, words[1:2] == ["--run"]


def on_tiny_data(words: list[str], number: int) -> list[str]:
    """The words with values for tiny data; ``number`` makes names of outputs."""
    words = [(PLACEHOLDERS | _NAMES).get(word, word) for word in words]
    if words[0] == "caption" and "--features" in words:
        words = [_FEATURES.get(word, word) for word in words]
    if "--image" in words:  # the shell expands these
        words = [name for word in words for name in sorted(glob(word)) or [word]]
    if words[0] == "train":
        return ["train", "--config", words[words.index("--config") + 1], *_small(words)]
    if words[0] == "inspect" and "--picture" in words:
        words[1] = "corpus/scenes"  # which has pictures
    if words[0] == "features":
        words[words.index("--shards") + 1] = "corpus/from_files"
    changed = [words[0], *(_VALUES.get(before, word) for before, word in pairwise(words))]
    if words[0] in ("scenes", "extract") or (words[0] == "build" and "--images" not in words):
        changed[changed.index("--out") + 1] = f"made/{number}"
    if words[0] == "scenes":
        defaults = {"--train", "--val", "--test"} - set(words)
        changed += [part for name in sorted(defaults) for part in (name, _VALUES[name])]
    if words[0] in ("scenes", "build", "extract"):
        changed += ["--workers", "1"]
    if words[0] == "build" and not {"--concepts", "--concepts-from", "--images"} & set(words):
        changed += ["--concepts", "0"]  # which are learned from ten images or more
    return changed


def run(program: str, words: list[str]) -> int:
    """The exit status of a command, which ends no process."""
    parser = {"capdist": capdist_parser, "shards": shards_parser}[program]()
    return exit_status(lambda: run_command(parser.parse_args(words)))


def _small(words: list[str]) -> Iterator[str]:
    """The settings of a training command, and those that make it short."""
    config = _config(words)
    settings = [*_given(words), *_RUN]
    sizes = _SIZES.items()
    settings += [f"model.{name}={size}" for name, size in sizes if hasattr(config.model, name)]
    for n, stage in enumerate(config.stages):
        of_stage = {"epochs": 1, "batch.images": 2, "batch.micro": 2}
        of_stage |= _STAGES.get(stage.objective, {})
        if stage.init:
            of_stage["init"] = "null"  # instead of another run
        settings += [f"stages.{n}.{name}={value}" for name, value in of_stage.items()]
    for setting in settings:
        yield from ("--set", setting)
    if "--resume" in words:
        yield from ("--resume", "auto")


def _config(words: list[str]) -> Config:
    return load_config(words[words.index("--config") + 1], _given(words))


def _given(words: list[str]) -> list[str]:
    return [word for before, word in pairwise(words) if before == "--set" and word not in ANY_KEY]
