"""Features from an LXMERT TSV file: one image per line, tab-separated, without a header.

Columns: image id (``COCO_val2014_000000000042`` or digits), height and width of the image, class
ids (R,) int64 and their probabilities (R,) float32, attribute ids and their probabilities (not
read), number of boxes R, boxes (R, 4) float32 x1 y1 x2 y2 in pixels, features (R, F) float32.
Arrays are base64. Class ids do not count the background.

Source: Tan & Bansal 2019, ``src/utils.py`` of the LXMERT code.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shards.formats import RegionFeatures, feature_format
from shards.formats.tsv_lines import TsvLines, decode_numbers, first_columns, parse_sizes
from shards.json_types import ImageId
from shards.schema import CLASS_DTYPE, ShardError

_COLUMNS = 10


@feature_format("lxmert_tsv")
class LxmertTsv(TsvLines):
    """Features from one TSV file."""

    @classmethod
    def accepts(cls, path: Path) -> bool:
        """Whether it is a TSV file with ten columns."""
        return len(first_columns(path)) == _COLUMNS

    def read(self, image_id: ImageId) -> RegionFeatures:
        where, columns = self.where(image_id), self.columns(image_id)
        if len(columns) != _COLUMNS:
            raise ShardError(f"{where}: {len(columns)} columns, expected {_COLUMNS}")
        height, width, count = parse_sizes(where, [*columns[1:3], columns[7]])
        classes = np.empty((count, 1), CLASS_DTYPE)
        classes["id"] = decode_numbers(f"{where}: class ids", columns[3], count, "<i8", width=1)
        classes["prob"] = decode_numbers(f"{where}: probabilities", columns[4], count, width=1)
        return RegionFeatures(
            decode_numbers(f"{where}: features", columns[9], count),
            decode_numbers(f"{where}: boxes", columns[8], count),
            classes,
            width=width,
            height=height,
            pixels=True,
            position=self.position(image_id),
        )
