"""Weights & Biases. Its environment variables choose project, entity, server and offline mode."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image
from typing_extensions import Self

from capdist.tracking.base import (
    PROJECT,
    TrackedRun,
    Tracker,
    TrackingError,
    ValidationCaptions,
    register,
)

#: Seconds for the service to answer before training.
START_S = 30.0


@register("wandb")
class WandbTracker(Tracker):
    """Numbers are charts over ``step``; captions are a table and pictures; scores the summary."""

    package = "wandb"

    def __init__(self, run: Any) -> None:
        self._run = run
        self.run_id = run.id
        # Not wandb's own step, which only rises: a resumed run goes back to its checkpoint.
        run.define_metric("step")
        run.define_metric("*", step_metric="step")

    @classmethod
    def open(cls, run: TrackedRun) -> Self:
        import wandb

        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        settings = wandb.Settings(console="off", silent=True, init_timeout=START_S)
        try:
            wandb.setup(settings)
            offline = os.environ.get("WANDB_MODE") in ("offline", "disabled")
            if not (offline or wandb.login(prompt=False)):
                raise TrackingError(
                    "tracking wandb: not logged in; run 'wandb login', set WANDB_API_KEY, or train "
                    "without it: --set tracking=null"
                )
            begun = wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                name=run.name,
                id=run.known,
                resume="allow",
                dir=str(run.folder),
                config=dict(run.config),
                allow_val_change=True,
                settings=settings,
            )
        except wandb.errors.Error as error:
            raise TrackingError(
                f"tracking wandb: {str(error).splitlines()[0]}; check the network and 'wandb "
                "login', set WANDB_MODE=offline, or train without it: --set tracking=null"
            ) from error
        return cls(begun)

    def log(self, records: Sequence[Mapping[str, float]]) -> None:
        for record in records:
            self._run.log(dict(record))

    def show(self, step: int, captions: ValidationCaptions) -> None:
        import wandb

        rows = [[str(image), caption] for image, caption in captions.by_image.items()]
        table = wandb.Table(columns=["image", "caption"], data=rows)
        pictures = {
            f"{captions.split}/{shown.image}": wandb.Image(
                Image.open(io.BytesIO(shown.png)), caption=shown.caption
            )
            for shown in captions.shown
            if shown.png
        }
        self._run.log({"step": step, f"{captions.split}/captions": table, **pictures})

    def scores(self, scores: Mapping[str, float]) -> None:
        self._run.summary.update(dict(scores))

    def close(self, *, done: bool) -> None:
        import wandb

        self._run.finish(exit_code=0 if done else 1)
        wandb.teardown()  # its process would wait for Python's shutdown, which we skip
