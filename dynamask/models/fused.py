"""The inference form of a network: norms folded, layers fused, channels_last throughout."""

import copy
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d

from dynamask.models.box_head import BoxHead
from dynamask.models.feature_aggregation import FeatureAggregation
from dynamask.ops import winograd_conv2d, winograd_conv2d_weight

Network = TypeVar("Network", bound=nn.Module)
ONEDNN_DTYPES: list[torch.dtype] = []
if torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise_"):
    ONEDNN_DTYPES.append(torch.float32)
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        ONEDNN_DTYPES.append(torch.bfloat16)
# In fp32 it takes less time than oneDNN in bf16, except where there are tiles for bf16.
WINOGRAD_DTYPES = [torch.float32]
if not torch.cpu._is_amx_tile_supported():
    WINOGRAD_DTYPES.append(torch.bfloat16)
# Where a 1x1 convolution on a GPU is a matrix product, whose bias and ReLU cuBLASLt adds. Not in
# fp32: torch lets convolutions round that to TF32, and matrix products not.
PRODUCT_DTYPES = (torch.bfloat16, torch.float16)
# what runs its children one after the other
CHAINS = (nn.Sequential, IntermediateLayerGetter)


def fuse(
    network: Network, dtype: torch.dtype = torch.float32, *, cudnn_epilogues: bool = False
) -> Network:
    """A copy for inference alone, with the same results to rounding.

    Batch norm is folded into the convolution before it, ReLUs and sums run inside convolutions, and
    no layer changes the layout. Nothing is shared with ``network``.

    Args:
        network: What to copy; buffers of its own keep their dtype.
        dtype: Of the children's weights.
        cudnn_epilogues: Whether cuDNN is asked to add bias, sum and ReLU where it convolves. It
            compiles what does so for every shape that is new, and torch tests it in fp32 and fp16
            alone: to be measured before it is trusted.
    """
    fused = _fused(copy.deepcopy(network).eval()).requires_grad_(False)
    for module in fused.modules():
        if isinstance(module, FusedConv2d):
            module.cudnn_epilogues = cudnn_epilogues
    if dtype in WINOGRAD_DTYPES:
        for module in fused.modules():
            if isinstance(module, FusedConv2d):
                module.transform()
    for child in fused.children():
        child.to(dtype)
    return fused


class FusedConv2d(nn.Conv2d):
    """A convolution with what follows it: a norm of fixed statistics, a sum, a ReLU.

    On a CPU all of it is one call of oneDNN, which torch alone would not make for 1x1 kernels, or
    of :func:`dynamask.ops.winograd_conv2d` once :meth:`transform` has prepared its weight. On a GPU
    in 16 bits a 1x1 convolution is one call of cuBLASLt, up to the sum.

    Args:
        conv: The convolution; it is not changed.
        norm: Batch norm of its output.
        relu: Whether a ReLU comes last.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.Module | None = None, relu: bool = False) -> None:
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            conv.dilation,  # type: ignore[arg-type]
            conv.groups,
            device="meta",
        )
        weight, bias = folded(conv, norm)
        self.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last))
        self.bias = nn.Parameter(bias)
        self.relu = relu
        self.cudnn_epilogues = False
        self.transformed: tuple[Tensor, Tensor] | None = None

    def transform(self) -> None:
        """Prepares weight and bias of a 3x3 convolution on the CPU for Winograd's algorithm."""
        how = (self.kernel_size, self.stride, self.padding, self.dilation, self.groups)
        wide = min(self.in_channels, self.out_channels) >= 16  # else transforming takes longest
        on_cpu = self.weight.device.type == "cpu"
        if wide and on_cpu and how == ((3, 3), (1, 1), (1, 1), (1, 1), 1):
            assert self.bias is not None
            self.transformed = winograd_conv2d_weight(self.weight), self.bias.detach().clone()

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        """The convolution of ``x`` [N, C, H, W]; the result may take the memory of ``shortcut``."""
        plain = x.device.type == "cpu" and x.numel() > 0 and not x.requires_grad
        if plain and self.transformed is not None:
            y = winograd_conv2d(x, *self.transformed, relu=self.relu and shortcut is None)
            return y if shortcut is None else self._finish(y, shortcut)
        if plain and x.dtype in ONEDNN_DTYPES and x.dtype == self.weight.dtype:
            return self._onednn(x, shortcut)
        if x.device.type == "cuda" and not x.requires_grad and x.dtype == self.weight.dtype:
            return self._on_gpu(x, shortcut)
        return self._finish(super().forward(x), shortcut)

    def _on_gpu(self, x: Tensor, shortcut: Tensor | None) -> Tensor:
        how: Any = (self.stride, self.padding, self.dilation, self.groups)
        if self.cudnn_epilogues and self.relu and shortcut is not None:
            return torch.cudnn_convolution_add_relu(x, self.weight, shortcut, 1.0, self.bias, *how)
        pointwise = self.kernel_size == (1, 1) and how == ((1, 1), (0, 0), (1, 1), 1)
        rows = x.is_contiguous(memory_format=torch.channels_last)
        if pointwise and rows and x.dtype in PRODUCT_DTYPES:
            pixels = x.permute(0, 2, 3, 1).flatten(0, 2)
            relu = self.relu and shortcut is None
            y = linear(pixels, self.weight.flatten(1), self.bias, relu=relu)
            y = y.unflatten(0, (x.shape[0], *x.shape[2:])).permute(0, 3, 1, 2)
            return y if relu else self._finish(y, shortcut)
        if self.cudnn_epilogues and self.relu:
            return torch.cudnn_convolution_relu(x, self.weight, self.bias, *how)
        return self._finish(super().forward(x), shortcut)

    def _onednn(self, x: Tensor, shortcut: Tensor | None) -> Tensor:
        how = (self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups)
        if shortcut is None:
            activation = "relu" if self.relu else "none"
            return torch.ops.mkldnn._convolution_pointwise(x, *how, activation, [], "")
        last = "relu" if self.relu else None
        return torch.ops.mkldnn._convolution_pointwise_(
            shortcut, x, *how, "add", 1.0, last, [], None
        )

    def _finish(self, y: Tensor, shortcut: Tensor | None) -> Tensor:
        y = y if shortcut is None else y.add_(shortcut)
        return F.relu_(y) if self.relu else y


class FusedBlock(nn.Module):
    """A residual block of a ResNet, the sum in its last convolution.

    The sum takes the memory of the shortcut. Nobody else reads that: it is the output of the block
    before, of ``downsample``, or of the pooling in front of the first stage.
    """

    def __init__(self, block: BasicBlock | Bottleneck) -> None:
        super().__init__()
        count = 3 if isinstance(block, Bottleneck) else 2
        self.convs = nn.ModuleList(
            FusedConv2d(getattr(block, f"conv{k}"), getattr(block, f"bn{k}"), relu=True)
            for k in range(1, count + 1)
        )
        self.downsample = None if block.downsample is None else _fused(block.downsample)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        for conv in self.convs[:-1]:
            x = conv(x)
        return self.convs[-1](x, shortcut)


class FusedPyramid(nn.Module):
    """A feature pyramid that adds each coarser map to the next finer one in place."""

    def __init__(self, fpn: FeaturePyramidNetwork) -> None:
        super().__init__()
        self.inner_blocks = _fused(fpn.inner_blocks)
        self.layer_blocks = _fused(fpn.layer_blocks)
        self.extra_blocks = fpn.extra_blocks

    def forward(self, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        """Maps by name, from fine to coarse."""
        names, features = list(maps), list(maps.values())
        levels: list[Tensor] = []
        inner = None
        for x, lateral, out in zip(
            features[::-1], self.inner_blocks[::-1], self.layer_blocks[::-1]
        ):
            inner = lateral(x) if inner is None else add_upsampled_(lateral(x), inner)
            levels.insert(0, out(inner))
        if self.extra_blocks is not None:
            levels, names = self.extra_blocks(levels, features, names)
        return dict(zip(names, levels))


class FusedRPNHead(nn.Module):
    """The head of proposals: objectness and deltas are one convolution, which reads a map once."""

    def __init__(self, head: RPNHead) -> None:
        super().__init__()
        self.conv = _fused(head.conv)
        parts = (head.cls_logits, head.bbox_pred)
        self.channels = [part.out_channels for part in parts]
        spare = -sum(self.channels) % 8  # whole vectors on any device
        both = nn.Conv2d(head.bbox_pred.in_channels, sum(self.channels) + spare, 1, device="meta")
        for name in ("weight", "bias"):
            values = [part.get_parameter(name).detach() for part in parts]
            values.append(values[0].new_zeros(spare, *values[0].shape[1:]))
            setattr(both, name, nn.Parameter(torch.cat(values)))
        self.both = FusedConv2d(both)

    def forward(self, maps: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Logits [B, A, H, W] and deltas [B, 4A, H, W] of every level."""
        found = [self.both(self.conv(x)) for x in maps]
        logits, deltas = self.channels
        return [x[:, :logits] for x in found], [x[:, logits:][:, :deltas] for x in found]


class FusedMLP(nn.Module):
    """The two hidden layers of the box head, for RoI features as channels_last holds them."""

    def __init__(self, mlp: TwoMLPHead, cells: int) -> None:
        super().__init__()
        self.fc6, self.fc7 = mlp.fc6, mlp.fc7
        weight = mlp.fc6.weight.detach().unflatten(1, (-1, cells))  # [hidden, C, cells]
        self.fc6.weight = nn.Parameter(weight.transpose(1, 2).flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        """RoI features [R, C, S, S] to [R, hidden]."""
        x = x.permute(0, 2, 3, 1).flatten(1)
        for layer in (self.fc6, self.fc7):
            on_gpu = x.device.type == "cuda"  # elsewhere nothing is gained, and hooks see the layer
            x = linear(x, layer.weight, layer.bias, relu=True) if on_gpu else F.relu_(layer(x))
        return x


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, *, relu: bool) -> Tensor:
    """Rows [N, C] times a weight [O, C], plus a bias: on a GPU one launch with its ReLU."""
    plain = x.device.type == "cuda" and not x.requires_grad and x.dtype == weight.dtype
    if relu and plain and bias is not None:
        return torch._addmm_activation(bias, x, weight.t())  # ReLU unless it is asked for GELU
    y = F.linear(x, weight, bias)
    return F.relu_(y) if relu else y


def folded(conv: nn.Conv2d, norm: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution that does the norm's work too, summed up in fp64."""
    weight = conv.weight.detach().clone()
    bias = weight.new_zeros(len(weight)) if conv.bias is None else conv.bias.detach().clone()
    if norm is None:
        return weight, bias
    gain = (norm.running_var.double() + norm.eps).rsqrt()
    gain = gain if norm.weight is None else gain * norm.weight.detach()
    shift = 0.0 if norm.bias is None else norm.bias.detach()
    bias = (bias - norm.running_mean.double()) * gain + shift
    return (weight * gain[:, None, None, None]).to(weight.dtype), bias.to(weight.dtype)


def add_upsampled_(x: Tensor, coarse: Tensor) -> Tensor:
    """Adds a coarser map, enlarged to the nearest cell, to ``x`` [B, C, H, W]."""
    height, width = coarse.shape[-2:]
    if x.shape[-2:] != (2 * height, 2 * width):
        return x.add_(F.interpolate(coarse, size=x.shape[-2:], mode="nearest"))
    blocks = x.unflatten(3, (width, 2)).unflatten(2, (height, 2))  # [B, C, H/2, 2, W/2, 2]
    blocks += coarse[:, :, :, None, :, None]
    return x


def _can_fold(norm: nn.Module | None) -> bool:
    if isinstance(norm, nn.BatchNorm2d):
        return norm.running_var is not None
    return isinstance(norm, FrozenBatchNorm2d)


def _fused(module: Any) -> Any:
    """The fused form of a module, which may be the module itself with fused children."""
    if isinstance(module, BasicBlock | Bottleneck) and _can_fold(module.bn1):
        return FusedBlock(module)
    if isinstance(module, FeaturePyramidNetwork):
        return FusedPyramid(module)
    if type(module) is RPNHead:
        return FusedRPNHead(module)
    if type(module) is nn.Conv2d:
        return FusedConv2d(module)
    if isinstance(module, FeatureAggregation):
        module.project_level = FusedConv2d(module.project_level, relu=True)
    if isinstance(module, BoxHead) and isinstance(module.mlp, TwoMLPHead):
        module.mlp = FusedMLP(module.mlp, module.pool_size**2)
    _fuse_runs(module)
    for name, child in module.named_children():
        setattr(module, name, _fused(child))
    return module


def _fuse_runs(module: nn.Module) -> None:
    """Merges each convolution among the children with the norm and the ReLU that follow it."""
    chain = isinstance(module, CHAINS)
    children: list[tuple[str, Any]] = [*module.named_children(), ("", None), ("", None)]
    for (name, conv), *after in zip(children, children[1:], children[2:]):
        if type(conv) is not nn.Conv2d:
            continue
        norm, relu = None, False
        if _can_fold(after[0][1]) and (chain or after[0][0] == name.replace("conv", "bn")):
            norm_name, norm = after.pop(0)
            setattr(module, norm_name, nn.Identity())
        if isinstance(after[0][1], nn.ReLU) and (chain or after[0][0] == f"{name}_relu"):
            relu = True
            setattr(module, after[0][0], nn.Identity())
        setattr(module, name, FusedConv2d(conv, norm, relu))
