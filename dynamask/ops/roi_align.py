import torch
from torch import Tensor, nn

from dynamask.ops._check import check_dims, check_float
from dynamask.ops._rois import as_pair, as_rois, is_channels_last, new_empty


def roi_align(
    input: Tensor,
    boxes: Tensor | list[Tensor],
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
) -> Tensor:
    """Cuts boxes out of feature maps at a fixed size: torchvision's ``roi_align``.

    Each box is cut into output_size bins; a bin is the average of a regular grid of bilinear
    samples (Mask R-CNN, https://arxiv.org/abs/1703.06870). A sample up to one pixel outside of the
    map reads the border, one farther away counts as zero.

    Args:
        input: Feature maps [N, C, H, W], fp32, fp64, fp16 or bf16. Any strides; channels_last is
            the fast layout and then the output is channels_last too.
        boxes: [K, 5] of (image, x1, y1, x2, y2), or one [L, 4] of (x1, y1, x2, y2) for each image;
            corners in pixels of the image, of any floating dtype.
        output_size: (height, width) of the output, or one number for both.
        spatial_scale: Pixels of the feature map per pixel of the image, such as 1/16.
        sampling_ratio: Samples per bin and axis. 0 or less: as many as the bin has pixels, rounded
            up; a box longer than 2^22 pixels of the map then gives zeros.
        aligned: Whether pixel centers lie at half numbers, so that boxes are moved by -1/2 pixel
            (detectron2). Otherwise a box is at least one pixel long, as in torchvision's default.

    Returns:
        [K, C, height, width] of the input's dtype. Geometry and sums are in fp32 (fp64 for fp64).
        A box with a coordinate that is not finite gives zeros, and gets no gradient back. Gradients
        go to ``input`` only, and are the same bits for any number of threads.

    Raises:
        TypeError: if a dtype does not fit.
        ValueError: if a shape or device does not fit, or on the CPU a box is on an image out of
            range.
    """
    op = "roi_align"
    check_dims(op, "input", input, "N C H W")
    check_float(op, "input", input)
    rois = as_rois(op, boxes, input)
    return torch.ops.dynamask.roi_align(
        input, rois, as_pair(op, output_size), spatial_scale, sampling_ratio, aligned
    )


class RoIAlign(nn.Module):
    """:func:`roi_align` with its numbers fixed: torchvision's ``RoIAlign``."""

    def __init__(
        self,
        output_size: int | tuple[int, int],
        spatial_scale: float,
        sampling_ratio: int,
        aligned: bool = False,
    ):
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned

    def forward(self, input: Tensor, rois: Tensor | list[Tensor]) -> Tensor:
        return roi_align(
            input, rois, self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned
        )

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}"
        )


@torch.library.register_fake("dynamask::roi_align")
def _(input, boxes, output_size, spatial_scale, sampling_ratio, aligned):
    size = [boxes.shape[0], input.shape[1], *output_size]
    return new_empty(input, size, is_channels_last(input))


@torch.library.register_fake("dynamask::roi_align_backward")
def _(
    grad, boxes, input_size, spatial_scale, sampling_ratio, aligned, channels_last, deterministic
):
    return new_empty(grad, input_size, channels_last)


def _setup_context(ctx, inputs, output):
    input, boxes, output_size, *ctx.options = inputs
    ctx.save_for_backward(boxes)
    ctx.input_size, ctx.output_size = input.shape, output_size
    ctx.channels_last = is_channels_last(input)


def _backward(ctx, grad):
    (boxes,) = ctx.saved_tensors
    deterministic = torch.are_deterministic_algorithms_enabled()
    grad_input = torch.ops.dynamask.roi_align_backward(
        grad, boxes, ctx.input_size, *ctx.options, ctx.channels_last, deterministic
    )
    return grad_input, None, None, None, None, None


# roi_align is linear in the input, so the gradient of its gradient is roi_align itself
def _setup_double(ctx, inputs, output):
    grad, boxes, _, *options, _, _ = inputs
    ctx.save_for_backward(boxes)
    ctx.output_size, ctx.options = grad.shape[2:], options


def _double_backward(ctx, grad):
    (boxes,) = ctx.saved_tensors
    grad_grad = torch.ops.dynamask.roi_align(grad, boxes, ctx.output_size, *ctx.options)
    return grad_grad, None, None, None, None, None, None, None


torch.library.register_autograd("dynamask::roi_align", _backward, setup_context=_setup_context)
torch.library.register_autograd(
    "dynamask::roi_align_backward", _double_backward, setup_context=_setup_double
)
