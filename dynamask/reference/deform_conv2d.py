import torch
import torch.nn.functional as F
from torch import Tensor


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    mask: Tensor | None = None,
) -> Tensor:
    n, c, h, w = input.shape
    out_channels, group_channels, kernel_h, kernel_w = weight.shape
    out_h, out_w = offset.shape[2:]
    taps, pixels = kernel_h * kernel_w, out_h * out_w
    groups = c // group_channels if group_channels else 1
    offset_groups = offset.shape[1] // (2 * taps)
    # geometry is fp32 (fp64 for fp64) whatever the features are
    geometry = torch.float64 if input.dtype == torch.float64 else torch.float32
    moved = offset.to(geometry).view(n, offset_groups, kernel_h, kernel_w, 2, out_h, out_w)
    v = _positions(out_h, kernel_h, stride, padding, dilation, 0).to(geometry)[:, None, :, None]
    u = _positions(out_w, kernel_w, stride, padding, dilation, 1).to(geometry)[None, :, None, :]
    v, u = v + moved[:, :, :, :, 0], u + moved[:, :, :, :, 1]  # [N, G, kh, kw, Ho, Wo]
    inside = (v >= -1) & (u >= -1) & (v < h) & (u < w)
    v, u = torch.where(inside, v, -1), torch.where(inside, u, -1)
    y, x = v.floor(), u.floor()
    fy, fx = v - y, u - x

    per_offset = c // offset_groups  # channels that share an offset
    ringed = F.pad(input, (1, 1, 1, 1)).reshape(n, offset_groups, per_offset, (h + 2) * (w + 2))
    each = (n, offset_groups, 1, taps * pixels)
    sampled: Tensor | float = 0.0
    for dy, wy in ((0, 1 - fy), (1, fy)):
        for dx, wx in ((0, 1 - fx), (1, fx)):
            index = (y.long() + 1 + dy) * (w + 2) + x.long() + 1 + dx
            corner = ringed.gather(3, index.view(each).expand(-1, -1, per_offset, -1))
            sampled = sampled + corner * (wy * wx).to(input.dtype).view(each)
    assert isinstance(sampled, Tensor)
    sampled = torch.where(inside.view(each), sampled, 0)
    if mask is not None:
        sampled = sampled * mask.to(input.dtype).reshape(each)
    columns = sampled.reshape(n, groups, group_channels * taps, pixels)
    rows = weight.to(input.dtype).view(groups, out_channels // groups, group_channels * taps)
    out = torch.einsum("ngkp,gok->ngop", columns, rows).reshape(n, out_channels, out_h, out_w)
    return out if bias is None else out + bias.to(input.dtype)[:, None, None]


def _positions(size, kernel, stride, padding, dilation, axis) -> Tensor:
    """Where each tap of each output row or column reads without an offset, [kernel, size]."""
    step, pad, dilate = (
        value if isinstance(value, int) else value[axis] for value in (stride, padding, dilation)
    )
    return torch.arange(kernel)[:, None] * dilate + torch.arange(size) * step - pad
