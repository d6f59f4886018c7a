import torch
import torch.nn.functional as F
from torch import Tensor


def edge_targets(masks, union=False):
    if not isinstance(masks, Tensor):
        return [edge_targets(of_size, union) for of_size in masks]
    foreground = (masks != 0).float().unsqueeze(1)  # [N, 1, H, W]
    laplacian = _laplacian(foreground, 1)
    edges = F.conv2d(foreground, laplacian, padding=1) > 0.1
    if union:
        coarse = F.conv2d(foreground, laplacian, padding=1, stride=2)
        edges = edges | (F.interpolate(coarse, size=masks.shape[1:], mode="nearest") > 0.1)
    return edges.squeeze(1).to(masks.dtype)


def block_targets(masks, width=2):
    if not isinstance(masks, Tensor):
        return [block_targets(of_size, width) for of_size in masks]
    foreground = F.pad((masks != 0).float().unsqueeze(1), [width] * 4)  # [N, 1, H, W]
    laplacian = _laplacian(foreground, width) / (2 * width + 1) ** 2
    inner = F.conv2d(foreground, laplacian) > 0.1
    outer = F.conv2d(1 - foreground, laplacian) > 0.1
    blocks = torch.where(masks != 0, 2, 0)
    blocks[(inner | outer).squeeze(1)] = 1
    return blocks.to(torch.uint8)


def _laplacian(like: Tensor, width: int) -> Tensor:
    """The number of sites less one in the middle, -1 around it [1, 1, K, K]."""
    side = 2 * width + 1
    kernel = like.new_full((1, 1, side, side), -1.0)
    kernel[0, 0, width, width] = side**2 - 1
    return kernel
