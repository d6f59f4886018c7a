import torch
import torch.nn.functional as F
from torch import Tensor

A, B = 5 / 8, 3 / 2  # evaluated at 0, a, -a, b, -b and infinity
PANEL = 32


def winograd_conv2d(input: Tensor, weight: Tensor, bias: Tensor, *, relu: bool = False) -> Tensor:
    n, _, height, width = input.shape
    down, across = -(-height // 4), -(-width // 4)
    padded = F.pad(input.to(weight.dtype), (1, 4 * across - width + 1, 1, 4 * down - height + 1))
    patches = padded.unfold(2, 6, 4).unfold(3, 6, 4)  # [N, C, tiles down, across, 6, 6]
    to_points, _, to_pixels = (m.to(weight.dtype) for m in matrices())
    points = torch.einsum("ij,kl,nctsjl->ikntsc", to_points, to_points, patches).flatten(0, 1)
    by_channel = weight.transpose(1, 2).flatten(2)[..., : bias.shape[0]]  # [36, C, O]
    sums = torch.einsum("pntsc,pco->pntso", points, by_channel).unflatten(0, (6, 6))
    tiles = torch.einsum("ij,kl,jlntso->notisk", to_pixels, to_pixels, sums)
    out = tiles.reshape(n, len(bias), 4 * down, 4 * across)[:, :, :height, :width]
    out = out + bias[:, None, None]
    return (out.relu() if relu else out).to(input.dtype)


def winograd_conv2d_weight(weight: Tensor) -> Tensor:
    _, of_weights, _ = matrices()
    points = torch.einsum("ij,kl,ocjl->ikco", of_weights, of_weights, weight.double()).flatten(0, 1)
    dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
    padded = F.pad(points, (0, -weight.shape[0] % PANEL))
    return padded.unflatten(2, (-1, PANEL)).transpose(1, 2).contiguous().to(dtype)


def matrices() -> tuple[Tensor, Tensor, Tensor]:
    """Six pixels to points [6, 6], three weights to points [6, 3], points to four pixels [4, 6]."""
    at = torch.tensor([0, A, -A, B, -B], dtype=torch.float64)
    powers = at[:, None] ** torch.arange(4)  # [5, 4]
    infinity = torch.tensor([[0.0, 0, 0, 1]], dtype=torch.float64)
    others = [[p for j, p in enumerate(at) if j != i] for i in range(5)]
    scale = torch.stack([torch.stack([at[i] - p for p in others[i]]).prod() for i in range(5)])
    of_weights = torch.cat([powers[:, :3] / scale[:, None], infinity[:, 1:]])
    rows = [F.pad(polynomial(zeros), (0, 1)) for zeros in others] + [polynomial(list(at))]
    return torch.stack(rows), of_weights, torch.cat([powers, infinity]).T


def polynomial(zeros: list[Tensor]) -> Tensor:
    """Coefficients of prod (x - zero), the constant one first."""
    found = torch.ones(1, dtype=torch.float64)
    for zero in zeros:
        found = F.pad(found, (1, 0)) - zero * F.pad(found, (0, 1))
    return found
