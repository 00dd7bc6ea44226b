"""A small model that is run on a batch, with a record of what its parts return."""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from capdist.batch import Batch
from capdist.models.base import CaptionModel, State, build, registered
from capdist.models.concept_detector import ConceptDetector
from tests.support.models import DIMS, A, B, L, R, S, make_batch, small
from tests.support.models import T as KEPT
from website.flow import Flow

K, WORDS, FORMS = 2, 19, 2
Run = dict[str, Tensor]


class Observed:
    """The tensors of a figure.

    ``sizes`` says what each letter of a shape is.
    """

    def __init__(self, flow: Flow) -> None:
        section = dict(flow.model)
        torch.manual_seed(1)
        if section["name"] == "concept_detector":
            self.model: Any = ConceptDetector(DIMS.features, WORDS, 24, 0.0).eval()
            section = {"width": 24}
        else:
            name = section.pop("name")
            self.model = build(small(name, **section), DIMS).eval()
            section = registered()[name].Config(**small(name, **section)).model_dump()
        for parameter in self.model.parameters():  # biases that begin with zero, too
            parameter.data.add_(0.1 * torch.randn(parameter.shape))
        self.flow = flow
        self.sizes = {"B": B, "K": K, "R": R, "A": A, "F": DIMS.features, "L": L, "V": 23}
        self.sizes |= {"T": make_batch().words.count, "C": DIMS.classes, "M": FORMS, "W": WORDS}
        self.sizes |= {"S": S, "X": KEPT}
        self.sizes |= {"D": section["width"], "P": section.get("regions") or 0}
        self.sizes["E"] = section.get("embedding", section["width"])
        self.sizes["H"] = section.get("attention") or section.get("hidden") or 0

    def shape(self, text: str) -> list[int]:
        """The sizes of a shape such as ``B, K, D + 1``."""
        spelled = re.sub(r"[A-Z]", lambda letter: str(self.sizes[letter[0]]), text)
        terms = [re.sub(r"(\d) (\d)", r"\1 * \2", term) for term in spelled.split(", ") if term]
        return [eval(term, {}) for term in terms]

    def run(self, changed: str | None = None) -> Run:
        """The tensor of every box; that of one of the inputs is changed before."""
        found: dict[str, list[Any]] = defaultdict(list)
        batch = make_batch()
        names = {box.code.removeprefix("batch.") for box in self.flow.boxes if "batch." in box.code}
        values = {name: getattr(batch, name).clone() for name in names}
        if changed in values:
            values[changed] = _other(values[changed])
        batch = replace(batch, **values)
        token = torch.tensor([[5, 9]] * B)
        if changed == "token":
            token = token + 3
        with _recorded(
            self.model, {_split(self.model, box.code)[0] for box in self.flow.boxes}, found
        ):
            state = self._steps(batch, token, found)
        for name, value in values.items():
            found[f"batch.{name}"] = [value]
        found["token"] = [token]
        if state is not None:
            found["state"] = [state]
        return {box.symbol: self._pick(box.code, box.shape, found) for box in self.flow.boxes}

    def _steps(self, batch: Batch, token: Tensor, found: dict[str, list[Any]]) -> State[Any] | None:
        model = self.model
        if not isinstance(model, CaptionModel):
            model(batch)
            return None
        memory = model.encode(batch)
        state = model.start(memory, K, L)
        if state.written:  # so that there are words before this one
            counts = {name: len(values) for name, values in found.items()}
            state = model.step(state, torch.tensor([[4, 7]] * B))[1]
            for name, values in found.items():
                del values[counts[name] :]
            state = replace(state, cache=_random(state.cache), written=_random(state.written))
        cache = {name: _leaf(value) for name, value in state.cache.items()}
        written = {name: _leaf(value) for name, value in state.written.items()}
        before = replace(state, cache=cache, written=written)
        # A step writes into these.
        written = {name: value + 0 for name, value in written.items()}
        model.step(replace(before, written=written), token)
        if any("T" in box.shape for box in self.flow.boxes):
            model.supervised(memory, batch, batch.words)
        return before

    def _pick(self, code: str, shape: str, found: dict[str, list[Any]]) -> Tensor:
        """The last tensor of this shape that the code stands for."""
        (owner, keys), wanted = _split(self.model, code), self.shape(shape)
        seen = []
        for value in reversed(found[owner]):
            for key in keys:
                value = _part(value, key)
            assert isinstance(value, Tensor), f"{code}: not a tensor: {type(value)}"
            seen.append(tuple(value.shape))
            if _fits(value, wanted):
                return value
        raise AssertionError(f"{code}: expected ({shape}), {tuple(wanted)}; it returned {seen}")


def _fits(value: Tensor, wanted: list[int]) -> bool:
    """Whether the shapes are the same, but for how a tensor's rows are arranged."""
    count = 1
    for size in wanted:
        count *= size
    return value.numel() == count and (not wanted or value.shape[-1] == wanted[-1])


def _split(model: nn.Module, code: str) -> tuple[str, list[str]]:
    """What is recorded, and which part of what it returns: ``self.encoder`` and ``0``."""
    if code == "token" or code.startswith("batch."):
        return code, []
    owner, *rest = re.findall(r"^\w+|\.\w+|\[[^\]]+\]", code)
    keys = [part.strip('.[]"') for part in rest]
    current: Any = model if owner == "self" else None
    while isinstance(current, nn.Module) and keys:
        layers = isinstance(current, nn.ModuleList | nn.ModuleDict)
        if rest[0].startswith("[") and not layers:
            break
        current = _part(current, keys.pop(0)) if layers else getattr(current, keys.pop(0))
        owner += rest.pop(0)
    return owner, keys


def _part(value: Any, key: str) -> Any:
    if isinstance(value, tuple | list | nn.ModuleList):
        return value[int(key)]
    return value[key] if isinstance(value, dict | nn.ModuleDict) else getattr(value, key)


def _random(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {name: torch.randn(t.shape, generator=generator) for name, t in tensors.items()}


def _leaf(value: Tensor) -> Tensor:
    return value if value.requires_grad else value.clone().requires_grad_()


def _other(value: Tensor) -> Tensor:
    """Other values of an input, as valid as these."""
    if value.is_floating_point():
        return value.flip(0) * 0.5 + 0.1
    return value.flip(-1) if value.shape[-1] != 3 else value.roll(1, -1) % 4


@contextmanager
def _recorded(model: nn.Module, owners: set[str], found: dict[str, list[Any]]) -> Iterator[None]:
    """Append what layers, methods and functions return to the list of their names."""
    with pytest.MonkeyPatch.context() as patches:
        for owner in owners:
            if owner.startswith("self."):
                target = eval(owner, {"self": model})
                if isinstance(target, nn.Module):
                    patches.setattr(target, "forward", _recording(target.forward, found[owner]))
                else:
                    of, _, name = owner.rpartition(".")
                    holder = eval(of, {"self": model})
                    patches.setattr(holder, name, _recording(target, found[owner]))
            elif owner not in ("token", "state") and not owner.startswith("batch."):
                modules = {sys.modules[kind.__module__] for kind in type(model).__mro__}
                holders = [module for module in modules if hasattr(module, owner)]
                assert holders, f"{owner}: neither a part of the model nor of its module"
                function = _recording(getattr(holders[0], owner), found[owner])
                for module in holders:
                    patches.setattr(module, owner, function)
        yield


def _recording(function: Callable[..., Any], results: list[Any]) -> Callable[..., Any]:
    def record(*args: Any, **kwargs: Any) -> Any:
        results.append(function(*args, **kwargs))
        return results[-1]

    return record
