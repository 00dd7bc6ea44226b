"""Imported by the server of `processes`: what commands would import or compile by themselves."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import torch

from capdist.config.model import MODEL_SECTIONS
from capdist.config.stage import STAGE_SECTIONS
from capdist.data.copy import address, copy_regions

PACKAGES = [
    "capdist.inference.evaluation",
    "capdist.training.run",
    # The first of torch's optimizers imports it, which takes longer than all others.
    "torch._dynamo",
    "torch.utils.tensorboard",
]
#: What ZeRO imports: its Muon imports torch's compiler. DeepSpeed looks for a GPU when it is
#: imported, after which forked processes could not use one.
DEEPSPEED = ["deepspeed", "deepspeed.runtime.zero.muon.muon_optimizer", "setuptools"]

for name in (*PACKAGES, *(() if torch.cuda.is_available() else DEEPSPEED)):
    import_module(name)
for sections in (MODEL_SECTIONS, STAGE_SECTIONS):
    sections.all()
region = np.zeros((1, 1), np.float32)
copy_regions(np.empty((1, 1, 1), np.float32), [[region]], [[address(region)]])
