"""Adam and AdamW over parameter groups that a config selects by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from importlib.util import find_spec

import torch
from torch import nn

from capdist.config.base import ConfigError
from capdist.config.stage import OptimizerConfig, ParameterGroup
from capdist.engines.deepspeed_operator import load_operator

#: A parameter group's learning rate as a multiple of the optimizer's, kept in the group itself.
LR_SCALE = "lr_scale"


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Adam, or AdamW, over the parameters of ``model``; frozen ones are left out.

    A parameter belongs to the first group of ``config.groups`` whose pattern matches its name.

    Raises:
        ConfigError: as `check_groups` and `check_implementation`.
        CapdistError: if DeepSpeed's Adam can't be compiled.
    """
    check_groups(model, config, "optimizer")
    check_implementation(config, "optimizer")
    groups = list(_parameter_groups(model, config))
    kind = adam(config)
    return kind(groups, lr=config.lr, betas=config.betas, eps=config.eps)


def adam(config: OptimizerConfig) -> Callable[..., torch.optim.Optimizer]:
    """Adam or AdamW by the implementation that the config names."""
    decay = config.weight_decay
    if config.implementation in ("torch", "fused"):
        kind = torch.optim.AdamW if config.decoupled else torch.optim.Adam
        # None: torch chooses.
        return partial(kind, weight_decay=decay, fused=config.implementation == "fused" or None)
    if config.implementation == "apex":
        from apex.optimizers import FusedAdam

        return partial(FusedAdam, weight_decay=decay, adam_w_mode=config.decoupled)
    if torch.cuda.is_available():
        load_operator("fused_adam", "optimizer.implementation=fused")
        from deepspeed.ops.adam import FusedAdam

        return partial(FusedAdam, weight_decay=decay, adam_w_mode=config.decoupled)
    load_operator("cpu_adam", "optimizer.implementation=fused")
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    return partial(DeepSpeedCPUAdam, weight_decay=decay, adamw_mode=config.decoupled)


def check_implementation(config: OptimizerConfig, place: str) -> None:
    """Refuse what is not installed, or has no device here.

    Raises:
        ConfigError: naming the option and what to install.
    """
    name, option = config.implementation, f"{place}.implementation"
    if name in ("torch", "fused"):
        return
    if find_spec(name) is None or (name == "apex" and find_spec("apex.optimizers") is None):
        how = {
            "apex": "build it with --cuda_ext as https://github.com/NVIDIA/apex describes",
            "deepspeed": "pip install -e '.[train]'",
        }
        raise ConfigError(f"{option}: {name} is not installed; {how[name]}, or choose fused")
    if name == "apex" and not torch.cuda.is_available():
        raise ConfigError(f"{option}: apex needs a GPU, and there is none here; choose fused")


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of a step, which a group may scale."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get(LR_SCALE, 1.0)


@contextmanager
def settings_kept(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Keep the settings of the groups, which the config gives, while a saved state is loaded."""
    state = {"params", "step"}  # apex and DeepSpeed count steps there
    settings = [
        {name: value for name, value in group.items() if name not in state}
        for group in optimizer.param_groups
    ]
    yield
    for group, kept in zip(optimizer.param_groups, settings, strict=True):
        group.update(kept)


def check_groups(model: nn.Module, config: OptimizerConfig, place: str) -> None:
    """Refuse patterns that match no parameter, and a model that is frozen as a whole.

    Raises:
        ConfigError: naming the group; ``place`` names the optimizer's section.
    """
    names = [name for name, _ in model.named_parameters()]
    chosen = [_group_of(name, config) for name in names]
    for number, group in enumerate(config.groups):
        if group not in chosen:
            earlier = config.groups[:number]
            left = [name for name, its in zip(names, chosen, strict=True) if its not in earlier]
            such_as = f", such as {left[0]}" if left else ""
            raise ConfigError(
                f"{place}.groups.{number}: {group.match!r} matches none of the {len(left)} "
                f"parameters that earlier groups leave{such_as}; correct the pattern"
            )
    if all(group is not None and group.frozen for group in chosen):
        raise ConfigError(f"{place}.groups: all parameters are frozen; leave some to train")


def _parameter_groups(model: nn.Module, config: OptimizerConfig) -> Iterator[dict[str, object]]:
    members: dict[ParameterGroup | None, list[nn.Parameter]] = {None: []}
    for name, parameter in model.named_parameters():
        group = _group_of(name, config)
        parameter.requires_grad_(group is None or not group.frozen)
        members.setdefault(group, []).append(parameter)
    for group, parameters in members.items():
        if group is None and parameters:
            yield {"params": parameters}
        elif group is not None and not group.frozen:
            decay = config.weight_decay if group.weight_decay is None else group.weight_decay
            scale = 1.0 if group.lr is None else group.lr / config.lr
            yield {"params": parameters, "weight_decay": decay, LR_SCALE: scale}


def _group_of(name: str, config: OptimizerConfig) -> ParameterGroup | None:
    return next((group for group in config.groups if fnmatchcase(name, group.match)), None)
