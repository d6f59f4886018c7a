from dataclasses import dataclass


@dataclass(frozen=True)
class Conventions:
    """In what two-stage detectors of one and the same structure differ.

    Attributes:
        anchors: ``exact``, or ``torchvision`` with rounded corners; see
            :class:`~dynamask.models.anchors.Anchors`.
        sampling_ratio: Samples per bin and side of RoIAlign; 0 takes as many as the bin needs.
        aligned: Whether RoIAlign shifts by half a pixel, as is exact.
        smooth_l1_beta: Where the box losses turn from square to linear; 0 is L1.
        training_proposals: Proposals of an image in training.
    """

    anchors: str
    sampling_ratio: int
    aligned: bool
    smooth_l1_beta: float
    training_proposals: int


CONVENTIONS = {
    # DynaMask, and mmdetection and detectron2 as far as they agree
    "paper": Conventions("exact", 0, True, 0.0, 1000),
    "torchvision": Conventions("torchvision", 2, False, 1 / 9, 2000),
}


def conventions_of(name: str) -> Conventions:
    """The conventions called ``paper`` or ``torchvision``."""
    if name not in CONVENTIONS:
        raise ValueError(f"conventions: expected one of {', '.join(CONVENTIONS)}, got {name!r}")
    return CONVENTIONS[name]
