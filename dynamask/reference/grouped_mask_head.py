import torch
from torch import Tensor

from dynamask.reference.class_logits import class_logits
from dynamask.reference.feature_aggregation import feature_aggregation


def grouped_mask_head(
    x: Tensor,
    levels: list[Tensor],
    rois: Tensor,
    labels: Tensor,
    state: Tensor,
    spatial_scales: list[float],
    stages: list[tuple[Tensor, ...]],
    exits: list[tuple[Tensor, Tensor | None]],
) -> tuple[Tensor, Tensor]:
    features = [x]
    for stage in zip(levels, spatial_scales, stages):
        level, scale, weights = stage
        features.append(feature_aggregation(features[-1], level, rois, scale, weights))
    places = torch.arange(len(state), device=state.device)
    weights, biases = zip(*exits)
    masks = grouped_masks(features, weights, biases, labels, state, places)
    sizes = torch.tensor([mask.shape[-1] for mask in masks], dtype=torch.int64)
    return torch.cat([x.new_empty(0), *(mask.flatten() for mask in masks)]), sizes


def grouped_masks(features, weights, biases, labels, state, order) -> list[Tensor]:
    """The mask of each RoI, from features that stand in ``order``."""
    place_of = torch.argsort(order)
    masks = []
    for n, k in enumerate(state.tolist()):
        label = labels[n : n + 1] if weights[k].shape[0] > 1 else torch.zeros_like(labels[:1])
        one = features[k][place_of[n]][None]
        masks.append(class_logits(one, weights[k], biases[k], label)[0])
    return masks
