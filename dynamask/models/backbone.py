from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.resnet import BasicBlock
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from dynamask.models.torchvision_weights import load_resnet

STAGES = ("layer1", "layer2", "layer3", "layer4")


class Backbone(nn.Module):
    """A ResNet and its feature pyramid: images [B, 3, H, W] to P2 ... P6 at strides 4 ... 64.

    Args:
        body: A network with the children ``layer1`` ... ``layer4`` at strides 4, 8, 16, 32.
        in_channels: Channels out of each of the four.
        out_channels: Channels of every level of the pyramid.
        trainable_stages: How many of (stem, layer1, ..., layer4), counted from the last, are
            trained; the others keep their weights and statistics.
    """

    def __init__(
        self,
        body: nn.Module,
        in_channels: Sequence[int],
        *,
        out_channels: int = 256,
        trainable_stages: int = 5,
    ) -> None:
        super().__init__()
        self.body = IntermediateLayerGetter(body, {stage: stage for stage in STAGES})
        self.fpn = FeaturePyramidNetwork(list(in_channels), out_channels, LastLevelMaxPool())
        self.out_channels = out_channels
        self.freeze(trainable_stages)

    def freeze(self, trainable_stages: int) -> None:
        """Trains only the last stages from here on; see the class."""
        if not 0 <= trainable_stages <= 5:
            raise ValueError(f"backbone: expected trainable_stages in 0..5, got {trainable_stages}")
        self.trainable_stages = trainable_stages
        for module in self.body.values():
            module.requires_grad_(True)
        for module in self.frozen():
            module.requires_grad_(False)
        self.train(self.training)

    def frozen(self) -> list[nn.Module]:
        """The modules that training leaves alone."""
        if self.trainable_stages == 5:
            return []
        trained = STAGES[::-1][: self.trainable_stages]
        return [module for name, module in self.body.items() if name not in trained]

    def train(self, mode: bool = True) -> "Backbone":
        super().train(mode)
        for module in self.frozen():
            module.eval()
        return self

    def forward(self, pixels: Tensor) -> list[Tensor]:
        return list(self.fpn(self.body(pixels)).values())


def norm_layer(norm: str) -> Callable[[int], nn.Module]:
    """The constructor of a normalisation: ``frozen_bn``, ``bn`` or ``gn``."""
    layers = {"frozen_bn": FrozenBatchNorm2d, "bn": nn.BatchNorm2d, "gn": group_norm}
    if norm not in layers:
        raise ValueError(f"backbone: expected norm one of {', '.join(layers)}, got {norm!r}")
    return layers[norm]


def group_norm(channels: int) -> nn.GroupNorm:
    """32 groups, and at least four channels in each."""
    return nn.GroupNorm(min(32, channels // 4), channels)


def resnet_fpn(
    name: str = "resnet50",
    *,
    norm: str = "frozen_bn",
    weights: str | Path | None = None,
    trainable_stages: int | None = None,
    out_channels: int = 256,
) -> Backbone:
    """Any of torchvision's ResNets and ResNeXts with a feature pyramid.

    Args:
        name: torchvision's name of it: ``resnet50``, ``resnext101_32x8d``, ...
        norm: ``frozen_bn`` (fixed statistics: only sensible with trained weights), ``bn``, ``gn``.
        weights: A file with torchvision's state dict of this ResNet. Nothing is downloaded.
        trainable_stages: See :class:`Backbone`. By default 3 with ``frozen_bn`` (stem and layer1
            stay as they are), else all 5.
        out_channels: Channels of every level of the pyramid.

    Raises:
        ValueError: if torchvision has no such ResNet, or the weights are not of this one.
    """
    names = torchvision.models.list_models(torchvision.models, include=["*resnet*", "*resnext*"])
    if name not in names:
        raise ValueError(f"backbone: expected one of {', '.join(names)}, got {name!r}")
    if trainable_stages is None:
        trainable_stages = 3 if norm == "frozen_bn" else 5
    body = torchvision.models.get_model(name, weights=None, norm_layer=norm_layer(norm))
    in_channels = [body.inplanes // 8 * 2**i for i in range(4)]
    backbone = Backbone(
        body, in_channels, out_channels=out_channels, trainable_stages=trainable_stages
    )
    if weights is not None:
        load_resnet(backbone.body, torch.load(weights, map_location="cpu", weights_only=True))
    return backbone


class SmallBody(nn.Module):
    """A ResNet of BasicBlocks, narrower than torchvision's narrowest.

    Args:
        width: Channels of the stem and of layer1; each later stage has twice as many.
        blocks: Blocks in each of the four stages.
        norm: See :func:`norm_layer`.
    """

    def __init__(self, width: int, blocks: Sequence[int], norm: str) -> None:
        super().__init__()
        self.norm = norm_layer(norm)
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = self.norm(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels = [width] + [width * 2**i for i in range(4)]
        for i, stage in enumerate(STAGES):
            layer = self.stage(channels[i], channels[i + 1], 1 if i == 0 else 2, blocks[i])
            self.add_module(stage, layer)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def stage(self, in_channels: int, channels: int, stride: int, blocks: int) -> nn.Sequential:
        shortcut = None
        if stride != 1 or in_channels != channels:
            conv = nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False)
            shortcut = nn.Sequential(conv, self.norm(channels))
        first = BasicBlock(in_channels, channels, stride, shortcut, norm_layer=self.norm)
        others = [BasicBlock(channels, channels, norm_layer=self.norm) for _ in range(1, blocks)]
        return nn.Sequential(first, *others)


def small_fpn(
    width: int = 32,
    blocks: Sequence[int] = (1, 1, 1, 1),
    *,
    norm: str = "gn",
    out_channels: int = 64,
) -> Backbone:
    """A small ResNet with a feature pyramid, to be trained from nothing on small images."""
    in_channels = [width * 2**i for i in range(4)]
    return Backbone(SmallBody(width, blocks, norm), in_channels, out_channels=out_channels)
