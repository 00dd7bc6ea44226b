"""Adam and AdamW over parameter groups that a config selects by name."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

import torch
from torch import nn

from capdist.config.base import ConfigError
from capdist.config.stage import OptimizerConfig, ParameterGroup

#: A parameter group's learning rate as a multiple of the optimizer's, kept in the group itself.
LR_SCALE = "lr_scale"


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Adam, or AdamW, over the parameters of ``model``; frozen ones are left out.

    A parameter belongs to the first group of ``config.groups`` whose pattern matches its name.

    Raises:
        ConfigError: as `check_groups`.
    """
    check_groups(model, config, "optimizer")
    kind = torch.optim.AdamW if config.decoupled else torch.optim.Adam
    groups = list(_parameter_groups(model, config))
    return kind(groups, config.lr, config.betas, config.eps, config.weight_decay)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of a step, which a group may scale."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get(LR_SCALE, 1.0)


def check_groups(model: nn.Module, config: OptimizerConfig, place: str) -> None:
    """Refuse patterns that match no parameter, and a model that is frozen as a whole.

    Raises:
        ConfigError: naming the group; ``place`` names the optimizer's section.
    """
    names = [name for name, _ in model.named_parameters()]
    chosen = [_group_of(name, config) for name in names]
    for number, group in enumerate(config.groups):
        if group not in chosen:
            raise ConfigError(
                f"{place}.groups.{number}: {group.match!r} matches none of the {len(names)} "
                f"parameters that earlier groups leave, such as {names[0]}; correct the pattern"
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
