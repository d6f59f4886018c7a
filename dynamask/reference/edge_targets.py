import torch
import torch.nn.functional as F
from torch import Tensor


def edge_targets(masks: Tensor, union: bool = False) -> Tensor:
    laplacian = masks.new_full((1, 1, 3, 3), -1.0, dtype=torch.float32)
    laplacian[0, 0, 1, 1] = 8.0
    foreground = (masks != 0).float().unsqueeze(1)  # [N, 1, H, W]
    edges = F.conv2d(foreground, laplacian, padding=1) > 0.1
    if union:
        coarse = F.conv2d(foreground, laplacian, padding=1, stride=2)
        edges = edges | (F.interpolate(coarse, size=masks.shape[1:], mode="nearest") > 0.1)
    return edges.squeeze(1).to(masks.dtype)
