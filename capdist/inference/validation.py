"""The validation CIDEr that chooses the best checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from capdist.config.decoding import DecodingConfig
from capdist.config.run_config import Config
from capdist.data.dataset import captioned, evaluation_batches
from capdist.decoding.generate import caption_images
from capdist.distributed.process_group import ProcessGroup
from capdist.inference.exported_model import write_export
from capdist.inference.run_folder import BEST
from capdist.inference.shown_images import ShownImages
from capdist.metrics.coco import cider, write_results
from capdist.metrics.endings import bad_endings, describe_endings
from capdist.models.base import CaptionModel
from capdist.tracking.base import ValidationCaptions
from capdist.vocab import Vocabulary
from shards.image_ids import id_order
from shards.manifest import Manifest
from shards.progress import tracked
from shards.tokenisers import CaptionText


@dataclass(frozen=True)
class CaptionScores:
    """CIDEr × 100 of captions; their mean length, distinct words, share with bad endings.

    CIDEr is None, undefined, for one image. ``captions``, on the first rank, are those of all
    images.
    """

    cider: float | None
    words: float
    vocabulary: int
    bad_endings: float
    remark: str
    captions: ValidationCaptions | None = None

    name: ClassVar[str] = "CIDEr"

    @classmethod
    def of(
        cls,
        cider: float | None,
        captions: Mapping[int, Sequence[str]],
        text: CaptionText,
        shown: ValidationCaptions | None = None,
    ) -> CaptionScores:
        """CIDEr is given; the other figures are of the captions alone."""
        every = list(captions.values())
        endings = bad_endings(every, text)
        return cls(
            cider,
            sum(map(len, every)) / len(every),
            len({word for words in every for word in words}),
            endings,
            describe_endings(endings, text),
            shown,
        )

    @property
    def value(self) -> float | None:
        return self.cider

    def to_json(self) -> dict[str, float]:
        """The entries of the metrics log."""
        names = ("cider", "words", "vocabulary", "bad_endings")
        figures = {name: getattr(self, name) for name in names}
        return {f"val_{name}": value for name, value in figures.items() if value is not None}


class CaptionValidator:
    """Decodes the validation split greedily, every rank its share, and scores it.

    CIDEr is computed on the shards' own tokens, so training never needs Java; final scores of
    English use the PTB tokeniser and differ a little.

    Args:
        config: of the run.
        group: the ranks.
        manifest: of the shards.
        vocab: of the model.
        model: a copy that is decoded with; its weights are replaced at every evaluation.
    """

    best_name: ClassVar[str] = BEST

    def __init__(
        self,
        config: Config,
        group: ProcessGroup,
        manifest: Manifest,
        vocab: Vocabulary,
        model: CaptionModel[Any],
    ) -> None:
        self.config = config
        self.group = group
        self.manifest = manifest
        self.folder = Path(config.run) / "captions"
        self.vocab = vocab
        self.model = model.to(group.device).eval()
        self.split = config.validation.split
        self.decoding = DecodingConfig(
            beam=1, max_words=config.decoding.max_words, batch=config.decoding.batch
        )
        self.batches = evaluation_batches(
            manifest, self.split, config.data, config.decoding.batch, vocab, group.ranks
        )
        self.references = captioned(manifest, self.split)

    def score(self, weights: dict[str, Tensor], step: int) -> CaptionScores:
        """The scores of greedy captions; the same on all ranks, which call it together.

        The captions are written to ``captions/<split>-<step>.json`` in the run folder.
        """
        captions, text = self.captions(weights), self.manifest.text
        score = shown = None
        if self.group.first:
            score = cider(self.references.tokens, captions)
            self.folder.mkdir(exist_ok=True)
            by_id = self.references.by_id({image: text.join(w) for image, w in captions.items()})
            by_id = {image: by_id[image] for image in sorted(by_id, key=id_order)}
            write_results(self.folder / f"{self.split}-{step:08d}.json", by_id)
            images = self.shown_images.draw(self.model, captions)
            shown = ValidationCaptions(self.split, by_id, images)
        return CaptionScores.of(self.group.gather(score)[0], captions, text, shown)

    @cached_property
    def shown_images(self) -> ShownImages:
        """The images whose attention is drawn at every validation."""
        return ShownImages.read(self.manifest, self.split, self.config.data, self.vocab)

    def export(self, folder: Path, weights: dict[str, Tensor]) -> None:
        """Write what `read_export` reads."""
        write_export(folder, weights, self.config, self.vocab, self.manifest)

    def captions(self, weights: dict[str, Tensor]) -> dict[int, list[str]]:
        """Words of each image's greedy caption by number, on all ranks, which call it together."""
        self.model.load_state_dict(weights)
        device = self.group.device
        steps = tracked(
            self.batches.epoch(0),
            self.batches.plan.steps,
            title="validating",
            unit="batch",
            enabled=self.group.first,
            inner=True,
        )
        batches = chain.from_iterable(steps)
        found = caption_images(self.model, batches, self.vocab, self.decoding, device)
        mine = self.group.agree(lambda: {image: captions[0].words for image, captions in found})
        return {image: words for part in self.group.gather(mine) for image, words in part.items()}
