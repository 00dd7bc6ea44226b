"""Hugging Face's Trainer with an encoder-decoder of our model's size, a caption a sample."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from threading import Semaphore, Thread
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import IterableDataset

from benchmarks.bart import largest_bart
from benchmarks.decode import FEATURES, VOCABULARY
from benchmarks.train_setup import LR, Setup
from capdist.batch import Batch
from capdist.vocab import PAD

Sample = dict[str, Tensor]


class HuggingFace:
    """`Trainer.train` in a thread, which waits after each step until the next one is asked for."""

    def __init__(self, setup: Setup) -> None:
        from transformers import Trainer, TrainerCallback, TrainingArguments

        captions = 5 * setup.task.images
        self.asked, self.done = Semaphore(0), Semaphore(0)
        wait = {"on_step_end": lambda *_, **options: self._wait()}
        self.folder = tempfile.TemporaryDirectory()
        arguments = TrainingArguments(
            output_dir=self.folder.name,
            per_device_train_batch_size=captions,
            max_steps=10**6,
            learning_rate=LR,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            optim="adamw_torch_fused",
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        self.trainer = Trainer(
            model=Bart(sum(p.numel() for p in setup.model().parameters())),
            args=arguments,
            train_dataset=Captions(setup),
            data_collator=collate,
            callbacks=[type("OneStep", (TrainerCallback,), wait)()],
        )
        self.thread = Thread(target=self._train, daemon=True)
        self.seconds: dict[str, float] = {}

    def step(self) -> None:
        if self.thread.ident is None:
            self.thread.start()
        else:
            self.asked.release()
        self.done.acquire()

    def loss(self, batch: Batch) -> None:
        """None: it is another model."""

    def _wait(self) -> None:
        self.done.release()
        self.asked.acquire()

    def _train(self) -> None:
        self.trainer.train()


class Captions(IterableDataset[Sample]):
    """The training captions with their images, in our order."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup

    def __iter__(self) -> Iterator[Sample]:
        for batch in self.setup.endless():
            for regions, captions in zip(batch.regions, batch.targets, strict=True):
                for caption in captions:
                    yield {"regions": regions, "labels": caption[caption != PAD]}


def collate(samples: Sequence[Sample]) -> Sample:
    labels = [sample["labels"] for sample in samples]
    return {
        "regions": torch.stack([sample["regions"] for sample in samples]),
        "labels": pad_sequence(labels, batch_first=True, padding_value=-100),
    }


class Bart(nn.Module):
    """BART over projected regions: one encoder layer, and decoder layers up to a size."""

    def __init__(self, parameters: int) -> None:
        super().__init__()
        self.bart = largest_bart(VOCABULARY, parameters)
        self.regions = nn.Linear(FEATURES, self.bart.config.d_model)

    def forward(self, regions: Tensor, labels: Tensor) -> Any:
        return self.bart(inputs_embeds=self.regions(regions), labels=labels)
