import torch.nn.functional as F
from torch import Tensor, nn

from dynamask.ops import DeformConv2d, FeatureAggregationWeights, feature_aggregation


class FeatureAggregation(nn.Module):
    """One stage of the region-wise pyramid (FAM of DynaMask): twice the size, half the channels.

    :func:`dynamask.ops.feature_aggregation` with its weights, and the projection of the pyramid
    level that it crops. Offsets start at zero, so both deformable convolutions start as plain ones.

    Args:
        channels: Channels C of the incoming RoI features, even.
        level_channels: Channels of the pyramid.
        stride: Pixels per cell of the pyramid level that is cropped.
    """

    def __init__(self, channels: int, level_channels: int, stride: int) -> None:
        super().__init__()
        out = channels // 2
        groups = _offset_groups(out)
        self.stride = stride
        self.reduce = nn.Conv2d(channels, out, 1)
        self.project_level = nn.Conv2d(level_channels, out, 1)
        self.project_crop = nn.Conv2d(out, out, 1)
        self.offset1 = nn.Conv2d(2 * out, 18 * groups, 3, padding=1)
        self.align = DeformConv2d(out, out, 3, padding=1, bias=False)
        self.offset2 = nn.Conv2d(out, 18 * groups, 1)
        self.attend = DeformConv2d(out, out, 3, padding=1, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for name, value in self.named_parameters():
            if name.endswith("bias") or name.startswith("offset"):
                nn.init.zeros_(value)
        for conv in (self.reduce, self.project_level, self.project_crop):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        for deform in (self.align, self.attend):
            nn.init.kaiming_uniform_(deform.weight, nonlinearity="relu")

    def project(self, level: Tensor) -> Tensor:
        """A whole pyramid level [B, C_in, H, W] as crops want it [B, C', H, W]; once per image."""
        projected = self.project_level(level)
        # what fuse() makes of the convolution has done it
        return projected if getattr(self.project_level, "relu", False) else F.relu_(projected)

    def forward(self, x: Tensor, projected: Tensor, rois: Tensor) -> Tensor:
        """Refines RoI features.

        Args:
            x: RoI features [N, C, S, S].
            projected: What :meth:`project` made of the pyramid level [B, C', H, W].
            rois: (image, x0, y0, x1, y1) in pixels [N, 5].

        Returns:
            RoI features [N, C', 2 S, 2 S].
        """
        return feature_aggregation(x, projected, rois, 1 / self.stride, self.weights())

    def weights(self) -> FeatureAggregationWeights:
        """What the operator takes: every convolution but the level's."""
        of = dict(self.named_parameters())
        return FeatureAggregationWeights(
            of["reduce.weight"],
            of["reduce.bias"],
            of["project_crop.weight"],
            of["project_crop.bias"],
            of["offset1.weight"],
            of["offset1.bias"],
            of["align.weight"],
            of["offset2.weight"],
            of["offset2.bias"],
            of["attend.weight"],
        )

    def count_macs(self, x: Tensor, projected: Tensor, rois: Tensor) -> int:
        return len(x) * self.macs(x.shape[-1])

    def macs(self, size: int) -> int:
        """MACs of one RoI whose incoming features are ``size`` x ``size``, without the level's."""
        finer = (self.project_crop, self.offset1, self.align, self.offset2, self.attend)
        weights = sum(module.weight.numel() for module in finer)
        return size * size * (self.reduce.weight.numel() + 4 * weights)


def _offset_groups(channels: int) -> int:
    """One group of offsets per 32 channels, so that the offsets cost every stage the same."""
    wanted = max(1, channels // 32)
    return next(groups for groups in range(wanted, 0, -1) if channels % groups == 0)
