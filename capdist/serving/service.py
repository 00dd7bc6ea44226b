"""From an uploaded photograph to its caption: checks, a bounded queue, batches."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO

from fastapi import HTTPException
from PIL import Image

from capdist.errors import CapdistError
from capdist.inference.photographs import PhotographCaptioner
from capdist.serving.batcher import Batcher, Job
from capdist.serving.metrics import Metrics
from capdist.serving.schema import CaptionForm
from shards.extractors import PictureFeatures
from shards.picture_batches import PreparedPicture
from shards.pictures import PictureError, PictureFormatError, PictureSizeError, decode_picture

# Threads that decode uploads, each of which may take all pixels that are allowed.
_DECODERS = 4
STOPPING = "the server is stopping; try another one, or again later"


@dataclass(frozen=True)
class Limits:
    """What the server takes on.

    Args:
        images: the largest batch.
        wait_s: how long a photograph waits for others of its batch.
        requests: the most requests for captions that are not answered yet.
        upload_bytes: the largest request.
        pixels: the largest photograph.
        upload_s: the longest time of an upload.
    """

    images: int = 16
    wait_s: float = 0.01
    requests: int = 64
    upload_bytes: int = 20_000_000
    pixels: int = 50_000_000
    upload_s: float = 30.0


class Service:
    """Captions photographs with the runs of ``captioners``, by name; the first is the default.

    ``pending`` are the photographs that were uploaded and have no caption yet. After ``stopping``
    is set, others are refused.
    """

    def __init__(self, captioners: Mapping[str, PhotographCaptioner], limits: Limits) -> None:
        self.captioners, self.limits = captioners, limits
        self.metrics = Metrics()
        self.batcher = Batcher(captioners, limits.images, limits.wait_s, self.metrics)
        self.pending = 0
        self.stopping = False
        self._decoders = ThreadPoolExecutor(_DECODERS, "decoder")

    def warm_up(self) -> None:
        """Caption an empty picture with every run: what torch loads late would delay the first."""
        for captioner in self.captioners.values():
            blank = PreparedPicture.of(captioner.features, Image.new("RGB", (8, 8)))
            captioner.caption_batch([blank], captioner.captioner.decoding)

    def close(self) -> None:
        """Caption what is queued and end the threads."""
        self._decoders.shutdown()
        self.batcher.close()

    async def caption(self, form: CaptionForm) -> dict[str, Any]:
        """What `CaptionAnswer` describes.

        Raises:
            HTTPException: 413, 415 or 422 if the request can't be answered, 503 if the server is
                stopping, 500 if captioning fails.
        """
        name = form.run or next(iter(self.captioners))
        if name not in self.captioners:
            raise HTTPException(
                422, f"run: no run {name!r}, expected one of {', '.join(self.captioners)}"
            )
        captioner = self.captioners[name]
        try:
            decoding = form.decoding(captioner.captioner)
        except CapdistError as error:
            raise HTTPException(422, str(error).removeprefix("decoding.")) from error
        if self.stopping:
            raise HTTPException(503, STOPPING)
        self.pending += 1
        try:
            picture = await asyncio.get_running_loop().run_in_executor(
                self._decoders, prepare, form.image.file, self.limits.pixels, captioner.features
            )
            found = await asyncio.wrap_future(self.batcher.submit(Job(name, decoding, picture)))
        except HTTPException:
            raise
        except Exception as error:
            raise HTTPException(500, "captioning failed; see the server's log") from error
        finally:
            self.pending -= 1
        size = {"width": picture.width, "height": picture.height}
        return {"run": name, **found.to_json(), **size}


def prepare(file: BinaryIO, max_pixels: int, features: PictureFeatures) -> PreparedPicture:
    """What the backbone reads of an upload.

    Raises:
        HTTPException: 413 if it has too many pixels, 415 if it is of no format that is read, 422 if
            it is empty or damaged.
    """
    if not file.read(1):
        raise HTTPException(422, "image: empty file; send a picture")
    file.seek(0)
    try:
        return PreparedPicture.of(features, decode_picture(file, "image", max_pixels))
    except PictureSizeError as error:
        raise HTTPException(413, str(error)) from error
    except PictureFormatError as error:
        raise HTTPException(415, str(error)) from error
    except PictureError as error:
        raise HTTPException(422, str(error)) from error
