import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynamask.ops import DeformConv2d, roi_align


class FeatureAggregation(nn.Module):
    """One stage of the region-wise pyramid (FAM of DynaMask): twice the size, half the channels.

    RoI features are upsampled, the same region is cropped out of a finer pyramid level, a
    deformable convolution aligns the first with the second, a second one attends to their sum::

        x = up2(relu(reduce(x)))                               C -> C' = C / 2, S -> 2 S
        p = relu(project_crop(crop(relu(project_level(P)))))   C', 2 S
        a = relu(align(x, offset1([x, p])))
        y = relu(attend(a + p, offset2(a + p)))

    Offsets start at zero, so both deformable convolutions start as plain ones.

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
        return F.relu_(self.project_level(level))

    def crop(self, projected: Tensor, rois: Tensor, size: int) -> Tensor:
        """The regions of a projected level, one bilinear sample per cell centre [N, C', S', S']."""
        return roi_align(projected, rois, size, 1 / self.stride, sampling_ratio=1, aligned=True)

    def forward(self, x: Tensor, projected: Tensor, rois: Tensor) -> Tensor:
        """Refines RoI features.

        Args:
            x: RoI features [N, C, S, S].
            projected: What :meth:`project` made of the pyramid level [B, C', H, W].
            rois: (image, x0, y0, x1, y1) in pixels [N, 5].

        Returns:
            RoI features [N, C', 2 S, 2 S].
        """
        x = F.relu_(self.reduce(x))
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        p = F.relu_(self.project_crop(self.crop(projected, rois, x.shape[-1])))
        aligned = self.align(x, self.offset1(torch.cat([x, p], 1)))
        fused = F.relu(aligned, inplace=not aligned.requires_grad) + p
        attended = self.attend(fused, self.offset2(fused))
        return F.relu(attended, inplace=not attended.requires_grad)

    def macs(self, size: int) -> int:
        """MACs of one RoI whose incoming features are ``size`` x ``size``, without the level's."""
        finer = (self.project_crop, self.offset1, self.align, self.offset2, self.attend)
        weights = sum(module.weight.numel() for module in finer)
        return size * size * (self.reduce.weight.numel() + 4 * weights)


def _offset_groups(channels: int) -> int:
    """One group of offsets per 32 channels, so that the offsets cost every stage the same."""
    wanted = max(1, channels // 32)
    return next(groups for groups in range(wanted, 0, -1) if channels % groups == 0)
