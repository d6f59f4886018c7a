import torch
from torch import Tensor

from dynamask.ops._check import check_device, check_dims, check_float, check_size

POINTS = 36
PANEL = 32


def winograd_conv2d(input: Tensor, weight: Tensor, bias: Tensor, *, relu: bool = False) -> Tensor:
    """A 3x3 convolution of stride 1 with zeros around the image, at a quarter of the products.

    Equal to ``conv2d(input, w, bias, padding=1)`` to rounding, whose errors are about five times
    those of a direct sum: 1e-6 of the output in fp32 (Lavin and Gray, Fast Algorithms for
    Convolutional Neural Networks, https://arxiv.org/abs/1509.09308: F(4x4, 3x3), at points with
    smaller errors). On the CPU only, and for inference: it has no gradient. A number that is not
    finite spoils the 4 x 4 pixels of every tile that it reaches.

    Args:
        input: [N, C, H, W]; any strides, channels_last is the fast layout.
        weight: What :func:`winograd_conv2d_weight` made of the weight.
        bias: One number per output channel [O], of the weight's dtype.
        relu: Whether negative results become 0.

    Returns:
        [N, O, H, W] of the input's dtype, channels_last; summed in fp32 (fp64 for fp64).

    Raises:
        TypeError: if a dtype does not fit.
        ValueError: if a shape does not fit, or a tensor is not on the CPU.
    """
    op = "winograd_conv2d"
    check_dims(op, "input", input, "N C H W")
    check_float(op, "input", input)
    check_dims(op, "weight", weight, f"{POINTS} P C {PANEL}")
    check_dims(op, "bias", bias, "O")
    check_size(op, "channels in weight", input.shape[1], weight.shape[2])
    check_size(op, "panels in weight", -(-bias.shape[0] // PANEL), weight.shape[1])
    check_device(op, torch.device("cpu"), input=input, weight=weight, bias=bias)
    dtype = _compute_dtype(input.dtype)
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor.dtype != dtype:
            raise TypeError(f"{op}: expected {name} of {dtype}, got {tensor.dtype}")
    rows = input.contiguous(memory_format=torch.channels_last)
    return torch.ops.dynamask.winograd_conv2d(rows, weight, bias, relu)


def winograd_conv2d_weight(weight: Tensor) -> Tensor:
    """The weight [O, C, 3, 3] of a convolution as :func:`winograd_conv2d` takes it.

    Returns:
        [36, O / 32 rounded up, C, 32] in fp32 (fp64 for fp64): four times as many numbers.

    Raises:
        TypeError: if the dtype does not fit.
        ValueError: if the shape does not fit, or the weight is not on the CPU.
    """
    op = "winograd_conv2d_weight"
    check_dims(op, "weight", weight, "O C 3 3")
    check_float(op, "weight", weight)
    check_device(op, torch.device("cpu"), weight=weight)
    return torch.ops.dynamask.winograd_conv2d_weight(weight)


def _compute_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


@torch.library.register_fake("dynamask::winograd_conv2d")
def _(input, weight, bias, relu):
    n, _, h, w = input.shape
    return input.new_empty(n, bias.shape[0], h, w).to(memory_format=torch.channels_last)


@torch.library.register_fake("dynamask::winograd_conv2d_weight")
def _(weight):
    size = (POINTS, -(-weight.shape[0] // PANEL), weight.shape[1], PANEL)
    return weight.new_empty(size, dtype=_compute_dtype(weight.dtype))
