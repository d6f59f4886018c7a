from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dynamask.models.instances import Instances
from dynamask.models.mask_losses import (
    bce_of_all_sizes,
    budget_loss,
    chosen_size_loss,
    entropy_loss,
    every_size_loss,
    weighted_by_size,
)
from dynamask.models.region_pyramid import MaskContext, RegionPyramid
from dynamask.models.selector import Selection, Selector
from dynamask.ops import Polygons, RaggedMasks, edge_targets, mask_targets, multiscale_roi_align

FULL_COST = 1.3945  # GMACs of the largest mask with the paper's 256 channels
SWITCH_INPUTS = {"roi_14": 14, "p2_28": 28, "p2_56": 56}


class TrainingCodes(NamedTuple):
    """Logits of every RoI at every size: mask and edge, each a list of [N, S, S]."""

    masks: list[Tensor]
    edges: list[Tensor]
    selection: Selection | None


def scaled_budget(budget: float, costs: Sequence[float]) -> float:
    """A budget meant for the paper's 256 channels as GMACs of a head with these ``costs``."""
    return budget * costs[-1] / FULL_COST


def is_recorded(x: Tensor) -> bool:
    """Whether the latest operation on this tensor went into a CUDA graph."""
    if torch.compiler.is_compiling() or not x.is_cuda or not torch.cuda.is_initialized():
        return False
    return torch.cuda.is_current_stream_capturing()


class DynamicMaskHead(nn.Module):
    """The mask branch of DynaMask: each instance gets the mask size it needs, and costs no more.

    In training every RoI passes all of the region pyramid. In inference RoIs are sorted by the size
    chosen for them, every stage works on those that need it, and each RoI's logits are computed at
    its own exit.

    Args:
        num_classes: Classes, without background.
        in_channels: Channels of the image pyramid.
        channels: Channels of the RoI features at 14 x 14, halved by every stage; a multiple of 8.
        strides: Pixels per cell of P2 to P5.
        mode: How sizes are chosen: ``"dynamic"``, ``"fixed=k"`` or ``"size"``; see
            :class:`Selector`, which stands under ``selector``.
        budget: Mean GMACs per mask that training aims at; by default the paper's 1.0, scaled to the
            channels of this head.
        lambda1: Weight of the edge loss.
        lambda2: Weight of the budget and entropy losses.
        budget_form: See :func:`budget_loss`.
        edge_union: Whether edge targets are as thick as in the authors' code.
        aux_all_stages: Weight of a mask loss at every size while the switch trains.
        switch_input: What the switch sees: ``"roi_14"``, the RoI features of the masks, or
            ``"p2_28"`` or ``"p2_56"``, crops of P2. Its gradient never reaches the pyramid.
        squeeze: Whether the switch starts with squeeze-and-excitation.
        temperature: Of the switch's random choice in training.
        size_rounding: See :func:`states_by_box_size`.
        level_rule: Which pyramid level an RoI reads; see :func:`multiscale_roi_align`.
        canonical_scale: Side in pixels of the RoIs that read P4.
        sampling_ratio: Samples per cell side of the 14 x 14 features; -1: by the size of the cell.

    Attributes:
        costs: GMACs of a mask of each size, from the weights of this head; may be overridden.
        switch_enabled: False while all sizes train and nobody chooses (phase one).
    """

    sizes = RegionPyramid.sizes

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 256,
        channels: int = 256,
        *,
        strides: Sequence[int] = (4, 8, 16, 32),
        mode: str = "dynamic",
        budget: float | None = None,
        lambda1: float = 0.1,
        lambda2: float = 0.4,
        budget_form: str = "paper",
        edge_union: bool = False,
        aux_all_stages: float = 0.0,
        switch_input: str = "roi_14",
        squeeze: bool = True,
        temperature: float = 0.5,
        size_rounding: str = "ceil",
        level_rule: str = "detectron2",
        canonical_scale: float = 224.0,
        sampling_ratio: int = -1,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"DynamicMaskHead: expected num_classes >= 1, got {num_classes}")
        if channels < 8 or channels % 8 != 0:
            raise ValueError(f"DynamicMaskHead: expected channels a multiple of 8, got {channels}")
        if switch_input not in SWITCH_INPUTS:
            raise ValueError(
                f"DynamicMaskHead: expected switch_input one of {list(SWITCH_INPUTS)}, "
                f"got {switch_input!r}"
            )
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.scales = [1 / stride for stride in strides]
        self.lambda1 = lambda1
        self.lambda2 = lambda2
        self.budget_form = budget_form
        self.edge_union = edge_union
        self.aux_all_stages = aux_all_stages
        self.switch_input = switch_input
        self.level_rule = level_rule
        self.canonical_scale = canonical_scale
        self.sampling_ratio = sampling_ratio
        self.switch_enabled = True

        self.pyramid = RegionPyramid(num_classes, in_channels, channels, strides)
        self.selector = Selector(
            self.sizes,
            in_channels,
            SWITCH_INPUTS[switch_input],
            mode=mode,
            squeeze=squeeze,
            temperature=temperature,
            rounding=size_rounding,
        )
        self.costs = [macs / 1e9 for macs in self.pyramid.mask_macs()]
        self.budget = scaled_budget(1.0, self.costs) if budget is None else budget
        self._last_state = torch.zeros(0, dtype=torch.int64)

    @property
    def last_counts(self) -> list[int]:
        """RoIs per mask size that the latest call chose; only asking for it waits for a device.

        A call that is recorded as a CUDA graph is none, nor is a replay: see
        :attr:`RecordedDetector.last_counts <dynamask.models.recorded.RecordedDetector>`.
        """
        return self.pyramid.chosen_counts(self._last_state)

    @property
    def last_macs(self) -> int:
        """MACs of the masks that the latest call chose, all that runs in inference.

        Without the switch and without what runs once per image.
        """
        return self.pyramid.chosen_macs(self._last_state)

    def uncounted_modules(self) -> list[nn.Module]:
        """Modules that are no part of a mask's cost: the switch and what runs once per image."""
        return [self.selector, *(stage.project_level for stage in self.pyramid.stages)]

    def context(
        self, features: Sequence[Tensor], image_sizes: Sequence[tuple[int, int]] | Tensor
    ) -> MaskContext:
        """Takes the image pyramid in.

        Args:
            features: P2, P3, P4, P5 and perhaps more [B, C, H, W].
            image_sizes: (height, width) of each image, without padding; a CUDA graph that is to
                read them anew every time takes them as a tensor [B, 2].
        """
        used = [f.contiguous(memory_format=torch.channels_last) for f in features[:4]]
        if isinstance(image_sizes, Tensor):
            return MaskContext(used, image_sizes.float().prod(1))
        # filled, not copied: nothing waits for a device, and a CUDA graph may record it
        areas = [used[0].new_full((), h * w, dtype=torch.float32) for h, w in image_sizes]
        return MaskContext(used, torch.stack(areas))

    def forward(self, context: MaskContext, instances: Instances) -> TrainingCodes | RaggedMasks:
        """Logits of all sizes in training; in inference those of the chosen sizes."""
        features = self.roi_features(context, instances)
        if self.training:
            selection = None
            if self.switch_enabled and len(instances) > 0:
                selection = self._select(context, instances, features)
                self._last_state = selection.state
            return TrainingCodes(*self.pyramid.every_size(features, context, instances), selection)

        if self.switch_enabled or not self.selector.is_learned:
            state = self._select(context, instances, features).state
        else:  # nobody has taught the switch yet
            state = torch.full_like(instances.labels, len(self.sizes) - 1)
        if instances.valid is not None:  # what is not there costs as little as can be
            state = state * instances.valid
        # an exported program keeps nothing between calls, and what stands in the memory of a CUDA
        # graph the next replay may have overwritten
        if not (torch.compiler.is_exporting() or is_recorded(state)):
            self._last_state = state
        return self.pyramid(features, context, instances, state)

    def loss(
        self,
        codes: TrainingCodes,
        context: MaskContext,
        instances: Instances,
        targets: tuple[Polygons, Tensor],
    ) -> dict[str, Tensor]:
        """Losses to be summed, weights included: ``mask``, ``edge``, ``budget``, ``entropy``.

        Args:
            codes: What :meth:`forward` returned in training.
            context: What it was given.
            instances: What it was given.
            targets: The outlines of the whole batch, and which of them each RoI is to find [N].
        """
        if len(instances) == 0:
            return self._no_loss(context)
        polygons, index = targets
        masks = mask_targets(polygons, instances.boxes, index, self.sizes)
        edges = edge_targets(masks, self.edge_union)
        mask_bce, edge_bce = bce_of_all_sizes(codes.masks, masks, codes.edges, edges)
        if codes.selection is None:
            return every_size_loss(mask_bce, edge_bce, self.lambda1)

        _, choice, probabilities = codes.selection
        assert choice is not None  # as in all training
        losses = chosen_size_loss(mask_bce, edge_bce, choice, self.lambda1)
        if self.aux_all_stages:
            losses["mask_all"] = self.aux_all_stages * weighted_by_size(mask_bce)
        if probabilities is not None:
            over = budget_loss(choice, self.costs, self.budget, self.budget_form)
            losses["budget"] = self.lambda2 * over
            losses["entropy"] = self.lambda2 * entropy_loss(probabilities)
        return losses

    def decode(
        self,
        codes: RaggedMasks,
        instances: Instances,
        image_sizes: Sequence[tuple[int, int]] | None = None,
    ) -> RaggedMasks:
        """Logits to probabilities, in the order of ``instances``."""
        return RaggedMasks(codes.values.float().sigmoid(), codes.sizes)

    def roi_features(self, context: MaskContext, instances: Instances) -> Tensor:
        """What the mask branch starts from [N, C, 14, 14], channels_last."""
        return multiscale_roi_align(
            context.features,
            instances.rois,
            self.sizes[0],
            self.scales,
            self.sampling_ratio,
            True,
            level_rule=self.level_rule,
            canonical_scale=self.canonical_scale,
        )

    def _select(self, context: MaskContext, instances: Instances, features: Tensor) -> Selection:
        if self.selector.is_learned and self.switch_input != "roi_14":
            features = multiscale_roi_align(
                context.features[:1],
                instances.rois,
                SWITCH_INPUTS[self.switch_input],
                self.scales[:1],
                self.sampling_ratio,
                True,
            )
        return self.selector(instances, context.image_areas, features.detach())

    def _no_loss(self, context: MaskContext) -> dict[str, Tensor]:
        """Zeros that reach every parameter and the pyramid, for a step without a positive RoI."""
        reached = [p.sum() for p in self.parameters()] + [f.sum() for f in context.features]
        zero = 0.0 * torch.stack([value.float() for value in reached]).sum()
        names = ["mask", "edge"]
        if self.switch_enabled and self.selector.is_learned:
            names += ["budget", "entropy"]
        return dict.fromkeys(names, zero)
