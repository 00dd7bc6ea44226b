"""Whether a command that a page shows would be accepted, without running it."""

from __future__ import annotations

import argparse
import importlib.util
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.command import new_parser as bench_parser
from capdist.commands.main import COMMANDS
from capdist.commands.main import new_parser as capdist_parser
from capdist.config.run_config import load_config
from shards.__main__ import new_parser as shards_parser
from tests.support.documentation import ROOT, Command

#: What stands for a value of the reader's.
PLACEHOLDERS = {"K": "3", "N": "3", "C": "1"}
#: ``--set`` with keys that stand for any.
ANY_KEY = ("a.b=c", "decoding.a=b")
#: Configs that the worked examples of CONTRIBUTING.md make.
EXAMPLES = ("configs/gru.json",)
#: Programs of others, whose arguments are not checked.
OTHERS = ("pip", "apt-get", "source", "export", "ssh", "zcat", "ray", "(umask", "npm", "git", "cd")
OTHERS += ("curl", "tensorboard", "wandb")
_OURS = re.compile(
    r"capdist (?!0)[a-z]+|python -m (shards|capdist) [a-z]+|--set [\w.]+=|sbatch .*\.sbatch"
    r"|(python|deepspeed|torchrun.*) launcher/"
)
CLUSTER, GPU = "needs a cluster", "needs a GPU"


def check(command: Command) -> None:
    """Fail if a command is not one, has an unknown option or key, or names a missing file."""
    program, *words = [PLACEHOLDERS.get(word, word) for word in command.words]
    if program == "sbatch":
        assert command.span or command.mark == CLUSTER, f"{command}: mark it: <!-- {CLUSTER} -->"
        check_sbatch(command, words)
    elif program == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(words) <= set(targets), f"{command}: no such target"
    elif program == "--set":
        check_settings(command, "configs/glied.json", [program, *words])
    elif program in ("capdist", "python", "deepspeed", "torchrun"):
        check_arguments(command, *find_parser(command, program, words))
    elif program in OTHERS:
        for rest in after_dashes(words):
            check_arguments(command, *find_parser(command, "python", rest))
        remote = program == "ray" and words[0] != "start"
        assert not remote or command.mark == CLUSTER, f"{command}: mark it: <!-- {CLUSTER} -->"
    else:
        raise AssertionError(f"{command}: which program is this? Add it to OTHERS")


def is_known(command: Command) -> bool:
    """Whether a part of a text, or of a block without a language, is a command of ours."""
    return _OURS.match(" ".join(command.words)) is not None


def after_dashes(words: Sequence[str]) -> Iterator[list[str]]:
    """The command that ``ray submit FILE -- ...`` or ``ray job submit -- ...`` runs."""
    if "--" in words:
        cut = words.index("--")
        rest, scripts = list(words[cut + 1 :]), [w for w in words[:cut] if w.endswith(".py")]
        if rest[0] == "python":
            yield ["launcher/" + rest[1], *rest[2:]]
        else:
            yield [*scripts, *rest]


def find_parser(
    command: Command, program: str, words: list[str]
) -> tuple[argparse.ArgumentParser | None, list[str]]:
    """The parser of a command line, and the words that it gets; None for another program's."""
    if program == "capdist":
        return capdist_parser(), words
    assert "--num_gpus" not in words or command.mark == GPU, f"{command}: mark it: <!-- {GPU} -->"
    if program in ("deepspeed", "torchrun"):
        script = next(i for i, word in enumerate(words) if word.endswith(".py"))
        words = words[script:]
    if words[0] == "-m":
        assert importlib.util.find_spec(words[1]), f"{command}: no module {words[1]}"
        known = {"shards": shards_parser, "capdist": capdist_parser}
        return (known[words[1]]() if words[1] in known else None), words[2:]
    assert (ROOT / words[0]).is_file(), f"{command}: no file {words[0]}"
    name = Path(words[0]).stem
    if name == "bench":
        needs = "gpu" in words and not command.span
        assert not needs or command.mark == GPU, f"{command}: mark it: <!-- {GPU} -->"
        return bench_parser(), words[1:]
    return capdist_parser(), [name, *words[1:]]


def check_arguments(
    command: Command, parser: argparse.ArgumentParser | None, words: list[str]
) -> None:
    if parser is None:
        return
    if command.span and len(words) == 1:
        assert parser.prog != "capdist" or words[0] in COMMANDS, f"{command}: no such command"
        return
    if command.span:
        make_lenient(parser)
    if "--help" in words:
        return
    args = parse(parser, words)
    assert args, f"{command}: {parser.prog} refuses it"
    if "--set" in words and "sweep" not in words:
        check_settings(command, getattr(args, "config", None), words)
    elif getattr(args, "config", None):
        config_of(command, args.config)


def parse(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace | None:
    """The arguments; None if the parser refuses them, which prints why."""
    try:
        return parser.parse_args(words)
    except SystemExit:
        return None


def make_lenient(parser: argparse.ArgumentParser) -> None:
    """Accept a command without its required options, which a text need not repeat."""
    for action in parser._actions:
        action.required = False
        if action.option_strings == [] and action.nargs is None:
            action.nargs = "?"
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                make_lenient(one)


def check_settings(command: Command, config: str | None, words: list[str]) -> None:
    """Load the config with the values that ``--set`` gives it."""
    given = [words[i + 1] for i, word in enumerate(words[:-1]) if word == "--set"]
    given = [setting for setting in given if setting not in ANY_KEY]
    load_config(config_of(command, config), given)


def config_of(command: Command, config: str | None) -> str:
    """The config that a command names; GLIED's for a placeholder."""
    if config is None or not config.startswith("configs/"):
        return str(ROOT / "configs/glied.json")
    path = ROOT / config
    if "NAME" in config or config in EXAMPLES:
        return str(ROOT / "configs/glied.json")
    assert path.is_file(), f"{command}: no file {config}"
    return str(path)


def check_sbatch(command: Command, words: list[str]) -> None:
    script = next(i for i, word in enumerate(words) if word.endswith(".sbatch"))
    name = Path(words[script]).name
    first: dict[str, Callable[[str], list[str]]] = {
        "train.sbatch": lambda config: ["train", "--config", config],
        "evaluate.sbatch": lambda run: ["evaluate", "--run", run],
        "sweep.sbatch": lambda listed: ["sweep", listed],
    }
    rest = words[script + 1 :]
    if rest:
        check_arguments(command, capdist_parser(), [*first[name](rest[0]), *rest[1:]])
