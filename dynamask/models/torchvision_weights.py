"""torchvision's state dicts on our modules: Mask R-CNN, ResNet with FPN, ImageNet ResNet."""

import re

from torch import Tensor, nn

# their prefix to ours
MODULES = {
    "backbone.": "backbone.",
    "rpn.head.": "rpn.head.",
    "roi_heads.box_head.": "box_head.mlp.",
    "roi_heads.box_predictor.": "box_head.predictor.",
    "roi_heads.mask_head.": "mask_branch.convs.",
    "roi_heads.mask_predictor.conv5_mask.": "mask_branch.upsample.",
    "roi_heads.mask_predictor.mask_fcn_logits.": "mask_branch.logits.",
}

# frozen batch norm and group norm have none
BATCH_COUNTER = "num_batches_tracked"


def load_torchvision(model: nn.Module, state_dict: dict[str, Tensor]) -> list[str]:
    """Loads a state dict of torchvision into a :class:`~dynamask.models.detector.Detector`.

    Taken are the state dicts of ``maskrcnn_resnet50_fpn`` and its sisters (the key names before
    and after torchvision 0.13), of ``resnet_fpn_backbone``, and of a ResNet or ResNeXt trained on
    ImageNet. torchvision counts the background as a class: its 91 classes are our 90, and label k
    there is k - 1 here.

    Args:
        model: The detector. A mask branch other than Mask R-CNN's keeps its own weights.
        state_dict: What ``torch.load`` gives for a file of torchvision.

    Returns:
        The keys that have no place in the detector: the ImageNet classifier, counters of batch
        norm, and the mask head where the mask branch is another one.

    Raises:
        ValueError: naming every key that is missing, unexpected or of another shape. Nothing has
            been loaded then.
    """
    expected = model.state_dict()
    if any(key.startswith("roi_heads.") for key in state_dict):
        ours = {key: rename(key) for key in state_dict}
        part = tuple(MODULES.values())
        if "mask_branch.upsample.weight" not in expected:
            part = tuple(prefix for prefix in part if not prefix.startswith("mask_branch."))
            ours = {k: v for k, v in ours.items() if not v.startswith("mask_branch.")}
    elif any(key.startswith("body.") for key in state_dict):
        part = ("backbone.",)
        ours = {key: rename("backbone." + key) for key in state_dict}
    else:
        part = ("backbone.body.",)
        ours = {key: part[0] + key for key in state_dict if not key.startswith("fc.")}
    ours = {k: v for k, v in ours.items() if not v.endswith(BATCH_COUNTER)}

    found = {}
    for key, name in ours.items():
        value = state_dict[key]
        if name.startswith("mask_branch.logits."):  # a row per class, and none for the background
            value = value[1:].flatten(1) if value.dim() == 4 else value[1:]
        found[name] = value
    load_checked(model, found, {k: v for k, v in expected.items() if k.startswith(part)})
    return [key for key in state_dict if key not in ours]


def load_resnet(body: nn.Module, state_dict: dict[str, Tensor]) -> None:
    """Loads torchvision's state dict of a whole ResNet into one without a classifier.

    Raises:
        ValueError: naming every key that is missing, unexpected or of another shape.
    """
    found = {key: value for key, value in state_dict.items() if not key.startswith("fc.")}
    load_checked(body, found, body.state_dict())


def load_checked(module: nn.Module, found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Loads ``found`` if its names and shapes are the ``expected`` ones, batch counters aside."""
    found, expected = (
        {name: value for name, value in some.items() if not name.endswith(BATCH_COUNTER)}
        for some in (found, expected)
    )
    check_same_keys(found, expected)
    module.load_state_dict(found, strict=False)


def rename(key: str) -> str:
    """The name here of a tensor of torchvision's Mask R-CNN."""
    key = re.sub(r"^(backbone\.fpn\.\w+_blocks\.\d)\.(weight|bias)$", r"\1.0.\2", key)
    key = re.sub(r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1", key)
    key = re.sub(r"mask_fcn(\d)\.", lambda match: f"{int(match[1]) - 1}.0.", key)
    for theirs, ours in MODULES.items():
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    return key


def check_same_keys(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Raises ValueError, with every difference, unless both hold the same names and shapes."""
    shapes = [
        f"{name} {list(found[name].shape)} instead of {list(expected[name].shape)}"
        for name in found.keys() & expected.keys()
        if found[name].shape != expected[name].shape
    ]
    differences = {
        "missing": sorted(expected.keys() - found.keys()),
        "unexpected": sorted(found.keys() - expected.keys()),
        "of another shape": sorted(shapes),
    }
    if any(differences.values()):
        lines = [
            f"  {len(names)} {kind}: {', '.join(names)}"
            for kind, names in differences.items()
            if names
        ]
        raise ValueError("\n".join(["torchvision weights: these do not fit the model", *lines]))
