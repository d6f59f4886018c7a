import pytest
import torch
from torchvision.models.detection._utils import BoxCoder as Torchvisions

from dynamask.models.box_coder import BoxCoder


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)], ids=str)
@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("count", [0, 50])
def test_decodes_to_the_bits_of_torchvision(weights, classes, count):
    corner = torch.rand(count, 2) * 300
    boxes = torch.cat([corner, corner + torch.rand(count, 2) * 100], 1)
    codes = torch.randn(count, 4 * classes) * 20  # beyond where growth is clipped
    ours, theirs = (
        coder(weights).decode_single(codes, boxes) for coder in (BoxCoder, Torchvisions)
    )
    assert torch.equal(ours, theirs)


def test_decodes_what_it_encoded():
    boxes, proposals = (torch.tensor([[3.0, 4.0, 20.0, 9.0]]) + shift for shift in (0, 2))
    coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
    codes = coder.encode_single(boxes, proposals)
    torch.testing.assert_close(coder.decode_single(codes, proposals), boxes)


def test_says_which_weights_it_takes():
    with pytest.raises(ValueError, match="expected weights alike for x and y"):
        BoxCoder((10.0, 5.0, 5.0, 5.0))
