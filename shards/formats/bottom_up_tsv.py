"""Features from a bottom-up TSV file: one image per line, tab-separated, without a header.

Columns: image id, width and height of the image, number of boxes R; boxes and features, each the
base64 of raw little-endian float32, (R, 4) x1 y1 x2 y2 in pixels and (R, F).

Source: Anderson et al. 2018, the files that the bottom-up-attention code writes.
"""

from __future__ import annotations

from pathlib import Path

from shards.formats import RegionFeatures, feature_format
from shards.formats.lxmert_tsv import LxmertTsv
from shards.formats.tsv_lines import TsvLines, decode_numbers, parse_sizes
from shards.formats.vinvl_tsv import VinvlTsv
from shards.json_types import ImageId
from shards.schema import ShardError

_COLUMNS = 6


@feature_format("bottom_up_tsv")
class BottomUpTsv(TsvLines):
    """Features from one TSV file."""

    @classmethod
    def accepts(cls, path: Path) -> bool:
        """Whether its name ends in .tsv or .tsv.<number>, and it is not another TSV format."""
        is_tsv = path.is_file() and ".tsv" in path.suffixes
        return is_tsv and not (LxmertTsv.accepts(path) or VinvlTsv.accepts(path))

    def read(self, image_id: ImageId) -> RegionFeatures:
        where, columns = self.where(image_id), self.columns(image_id)
        if len(columns) != _COLUMNS:
            raise ShardError(f"{where}: {len(columns)} columns, expected {_COLUMNS}")
        width, height, count = parse_sizes(where, columns[1:4])
        boxes = decode_numbers(f"{where}: boxes", columns[4], count)
        regions = decode_numbers(f"{where}: features", columns[5], count)
        return RegionFeatures(
            regions,
            boxes,
            width=width,
            height=height,
            pixels=True,
            position=self.position(image_id),
        )
