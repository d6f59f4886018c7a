import torch
import torch.nn.functional as F
from torch import Tensor

from dynamask.reference.deform_conv2d import deform_conv2d
from dynamask.reference.roi_align import roi_align


def feature_aggregation(
    x: Tensor,
    level: Tensor,
    rois: Tensor,
    spatial_scale: float,
    weights: tuple[Tensor, ...],
    *,
    count: Tensor | None = None,
) -> Tensor:
    if count is not None:
        first = slice(int(count))
        out = x.new_full((len(x), len(weights[0]), 2 * x.shape[2], 2 * x.shape[3]), torch.nan)
        out[first] = feature_aggregation(x[first], level, rois[first], spatial_scale, weights)
        return out
    reduce, reduce_bias, project, project_bias, offset1, offset1_bias, *others = weights
    align, offset2, offset2_bias, attend = others
    x = F.conv2d(x, reduce, reduce_bias).relu()
    x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
    crop = roi_align(level, rois, (x.shape[2], x.shape[3]), spatial_scale, 1, True)
    p = F.conv2d(crop, project, project_bias).relu()
    offset = F.conv2d(torch.cat([x, p], 1), offset1, offset1_bias, padding=1).contiguous()
    fused = deform_conv2d(x, offset, align, padding=1).relu() + p
    offset = F.conv2d(fused, offset2, offset2_bias).contiguous()
    return deform_conv2d(fused, offset, attend, padding=1).relu()
