"""EfficientNet-Lite2 (Tan and Le, ICML 2019): no squeeze and excitation, ReLU6 for all activations.

Legend: B pictures, R regions, D width. EfficientNet-B0's stages are 1.1 times as wide and, except
the first and the last, 1.2 times as deep.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

_STEM, _HEAD, _CLASSES = 32, 1280, 1000
#: Convolutions with a stride are padded as for pictures of this size, whatever size they get.
_PADDED_FOR = 260


@dataclass(frozen=True)
class _Stage:
    """Number of blocks, kernel, stride of the first block, expansion and width."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    width: int


_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(3, 3, 2, 6, 24),
    _Stage(3, 5, 2, 6, 48),
    _Stage(4, 3, 2, 6, 88),
    _Stage(4, 5, 1, 6, 120),
    _Stage(5, 5, 2, 6, 208),
    _Stage(1, 3, 1, 6, 352),
)


class EfficientNetLite2(nn.Module):
    """Maps pixels (B, 3, height, width) to features (B, 1280, rows, columns)."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [_convolution(3, _STEM, 3, stride=2, size=_PADDED_FOR)]
        size, width = -(-_PADDED_FOR // 2), _STEM
        for stage in _STAGES:
            for block in range(stage.blocks):
                stride = 1 if block else stage.stride
                layers.append(_Block(stage, width, stride, size))
                size, width = -(-size // stride), stage.width
        self.features = nn.Sequential(*layers, _convolution(width, _HEAD, 1))
        self.classifier = nn.Linear(_HEAD, _CLASSES)

    def load_in_order(self, weights: Mapping[str, Tensor]) -> None:
        """Load weights that have other names, but the order of this network's.

        Raises:
            RuntimeError, ValueError: if their number or shapes are others.
        """
        self.load_state_dict(dict(zip(self.state_dict(), weights.values(), strict=True)))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.features(pixels)


class _Block(nn.Module):
    """An inverted bottleneck: expand, convolve each channel, project; x + f(x) where shapes allow.

    Args:
        stage: that it belongs to.
        width: of its input.
        stride: of its convolution.
        size: of its input in pixels.
    """

    def __init__(self, stage: _Stage, width: int, stride: int, size: int) -> None:
        super().__init__()
        inner = width * stage.expansion
        layers = [_convolution(width, inner, 1)] if stage.expansion > 1 else []
        layers.append(_convolution(inner, inner, stage.kernel, stride, size, groups=inner))
        self.layers = nn.Sequential(*layers, *list(_convolution(inner, stage.width, 1))[:-1])
        self.shortcut = stride == 1 and width == stage.width

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.shortcut else y


def _convolution(
    width: int, out: int, kernel: int, stride: int = 1, size: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution, batch norm and ReLU6; padded so that ``size`` pixels become size / stride."""
    padding = max(0, (-(-size // stride) - 1) * stride + kernel - size)
    first, last = padding // 2, padding - padding // 2
    return nn.Sequential(
        nn.ZeroPad2d((first, last, first, last)),
        nn.Conv2d(width, out, kernel, stride, groups=groups, bias=False),
        nn.BatchNorm2d(out, eps=1e-3),
        nn.ReLU6(),
    )
