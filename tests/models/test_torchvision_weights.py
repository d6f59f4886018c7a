"""With torchvision's conventions and weights, our Mask R-CNN is torchvision's."""

import re

import pytest
import torch
import torchvision
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from dynamask.models.backbone import resnet_fpn
from dynamask.models.presets import dynamask_r50, maskrcnn_r50
from dynamask.models.torchvision_weights import load_torchvision


@pytest.fixture(scope="module")
def theirs():
    """torchvision's model with random weights that are sure of a few things."""
    torch.manual_seed(0)
    model = maskrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=11,
        min_size=96,
        max_size=160,
        rpn_post_nms_top_n_test=60,
    )
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1) if not name.endswith("bn3") else None
            module.weight.data.mul_(0.3) if name.endswith("bn3") else None
            module.bias.data.normal_(0, 0.1)
    predictor = model.roi_heads.box_predictor
    predictor.cls_score.weight.data.mul_(30)
    predictor.bbox_pred.weight.data.mul_(3)
    model.rpn.head.cls_logits.weight.data.mul_(20)
    model.rpn.head.bbox_pred.weight.data.mul_(3)
    return model.eval()


@pytest.fixture(scope="module")
def ours(theirs):
    model = maskrcnn_r50(10, proposals=60)
    skipped = load_torchvision(model, theirs.state_dict())
    assert all(key.endswith("num_batches_tracked") for key in skipped)
    return model.eval()


@torch.no_grad()
def test_same_detections_as_torchvision(theirs, ours):
    images = [torch.rand(3, 96, 160), torch.rand(3, 96, 128)]
    batch, _ = theirs.transform(images)
    assert batch.image_sizes == [(96, 160), (96, 128)]
    features = theirs.backbone(batch.tensors)
    proposals, _ = theirs.rpn(batch, features)
    expected, _ = theirs.roi_heads(features, proposals, batch.image_sizes)

    for prediction, wanted in zip(ours(images), expected):
        assert len(prediction) > 10
        torch.testing.assert_close(prediction.boxes, wanted["boxes"], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(prediction.scores, wanted["scores"], atol=1e-4, rtol=1e-4)
        assert torch.equal(prediction.labels, wanted["labels"] - 1)
        masks = torch.stack(prediction.masks.split())
        torch.testing.assert_close(masks, wanted["masks"][:, 0], atol=1e-4, rtol=1e-4)
        assert masks.std() > 0.1


def test_labels_lose_the_background(theirs, ours):
    weight = theirs.roi_heads.mask_predictor.mask_fcn_logits.weight
    assert torch.equal(ours.mask_branch.logits.weight, weight[1:].flatten(1))


def test_takes_the_names_of_torchvisions_own_files(theirs, ours):
    old = {}
    for key, value in theirs.state_dict().items():
        key = re.sub(r"(fpn\.\w+_blocks\.\d)\.0\.", r"\1.", key)
        key = key.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        key = re.sub(r"mask_head\.(\d)\.0", lambda m: f"mask_head.mask_fcn{int(m[1]) + 1}", key)
        if not key.endswith("num_batches_tracked"):
            old[key] = value
    assert "backbone.fpn.inner_blocks.0.weight" in old
    assert "rpn.head.conv.weight" in old
    assert "roi_heads.mask_head.mask_fcn4.bias" in old
    fresh = maskrcnn_r50(10)
    assert load_torchvision(fresh, old) == []
    for name, value in ours.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value), name


def test_dynamask_takes_all_but_the_mask_head(theirs):
    model = dynamask_r50(10)
    skipped = load_torchvision(model, theirs.state_dict())
    assert sum(key.startswith("roi_heads.mask_") for key in skipped) == 12
    weight = theirs.roi_heads.box_head.fc7.weight
    assert torch.equal(model.box_head.mlp.fc7.weight, weight)


def test_takes_an_imagenet_resnet_of_any_norm():
    resnet = torchvision.models.resnet18(weights=None, num_classes=4)
    resnet.bn1.weight.data.fill_(7)
    model = dynamask_r50(3, backbone="resnet18")
    skipped = load_torchvision(model, resnet.state_dict())
    assert {"fc.weight", "fc.bias", "bn1.num_batches_tracked"} <= set(skipped)
    assert (model.backbone.body["bn1"].weight == 7).all()


def test_takes_a_backbone_with_fpn():
    theirs = resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    model = dynamask_r50(3, backbone="resnet18")
    assert load_torchvision(model, theirs.state_dict()) == []
    weight = theirs.fpn.layer_blocks[3][0].weight
    assert torch.equal(model.backbone.fpn.layer_blocks[3][0].weight, weight)


def test_reads_backbone_weights_from_a_file(tmp_path):
    resnet = torchvision.models.resnet18(weights=None)
    torch.save(resnet.state_dict(), tmp_path / "resnet18.pth")
    backbone = resnet_fpn("resnet18", weights=tmp_path / "resnet18.pth")
    assert torch.equal(backbone.body["conv1"].weight, resnet.conv1.weight)
    assert not backbone.body["conv1"].weight.requires_grad
    with pytest.raises(ValueError, match=r"unexpected: .*layer1.2.bn1.weight"):
        resnet_fpn("resnet18", weights=save(torchvision.models.resnet34(), tmp_path / "34.pth"))


def save(module, path):
    torch.save(module.state_dict(), path)
    return path


def test_lists_all_that_does_not_fit():
    resnet = torchvision.models.resnet18(weights=None)
    state_dict = resnet.state_dict()
    del state_dict["layer2.0.conv1.weight"]
    state_dict["layer9.weight"] = torch.zeros(1)
    state_dict["conv1.weight"] = torch.zeros(64, 3, 5, 5)
    model = dynamask_r50(3, backbone="resnet18")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="do not fit") as error:
        load_torchvision(model, state_dict)
    assert str(error.value).splitlines()[1:] == [
        "  1 missing: backbone.body.layer2.0.conv1.weight",
        "  1 unexpected: backbone.body.layer9.weight",
        "  1 of another shape: backbone.body.conv1.weight [64, 3, 5, 5] instead of [64, 3, 7, 7]",
    ]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_another_number_of_classes(theirs):
    with pytest.raises(ValueError, match=r"box_head.predictor.cls_score.weight \[11, 1024\]"):
        load_torchvision(maskrcnn_r50(80), theirs.state_dict())
