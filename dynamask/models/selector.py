from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynamask.models.instances import Instances


class Selection(NamedTuple):
    """Which mask size each RoI gets.

    Attributes:
        state: Index into the mask sizes [N] int64, 0 the smallest.
        choice: In training the same as one row per RoI [N, K], 1 at the state, with the gradient of
            the relaxed choice; else None.
        probabilities: In training those of every size [N, K]; else, or with no switch asked, None.
    """

    state: Tensor
    choice: Tensor | None = None
    probabilities: Tensor | None = None


class SqueezeExcitation(nn.Module):
    """Weighs channels by what the whole RoI holds (Hu et al., 2018)."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(4, channels // reduction)
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.sigmoid(self.fc2(F.relu(self.fc1(x.mean((2, 3))))))
        return x * weight[:, :, None, None]


class MaskSwitch(nn.Module):
    """The mask switch module (MSM): RoI features to one logit per mask size.

    Args:
        channels: Channels of the RoI features.
        size: Side S of the RoI features.
        num_states: How many mask sizes there are.
        squeeze: Whether a squeeze-and-excitation block comes first, as in the paper.
    """

    def __init__(
        self, channels: int, size: int, num_states: int = 4, *, squeeze: bool = True
    ) -> None:
        super().__init__()
        self.squeeze = SqueezeExcitation(channels) if squeeze else None
        self.conv1 = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels // 2)
        self.conv1_relu = nn.ReLU()
        self.conv2 = nn.Conv2d(channels // 2, 16, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.conv2_relu = nn.ReLU()
        last = -(-size // 4)
        self.fc1 = nn.Linear(16 * last * last, 512)
        self.fc2 = nn.Linear(512, num_states)

    def forward(self, x: Tensor) -> Tensor:
        """RoI features [N, C, S, S] to logits [N, num_states], fp32."""
        if self.squeeze is not None:
            x = self.squeeze(x)
        x = F.max_pool2d(self.conv1_relu(self.bn1(self.conv1(x))), 3, 2, 1)
        x = F.max_pool2d(self.conv2_relu(self.bn2(self.conv2(x))), 3, 2, 1)
        return self.fc2(F.relu(self.fc1(x.flatten(1)))).float()


def straight_through(logits: Tensor, temperature: float = 0.5) -> Tensor:
    """Draws one state per row, with the gradient of the relaxed draw (Gumbel-softmax; eq. 2).

    Args:
        logits: Of every state [N, K].
        temperature: Of the relaxation; smaller is closer to the hard draw.

    Returns:
        One-hot rows [N, K]; their gradient is that of ``softmax((logits + noise) / temperature)``.
    """
    uniform = torch.rand_like(logits)
    noise = -torch.log(-torch.log(uniform + 1e-20) + 1e-20)
    soft = F.softmax((logits + noise) / temperature, 1)
    hard = F.one_hot(soft.argmax(1), logits.shape[1]).to(soft.dtype)
    return hard - soft.detach() + soft


def states_by_box_size(
    boxes: Tensor, image_areas: Tensor, num_states: int = 4, rounding: str = "ceil"
) -> Tensor:
    """The size rule (eq. 8): boxes that cover more of their image get larger masks.

    ``state = round(4 + log2(sqrt(w h) / sqrt(w0 h0))) - 1``, kept within the states there are.
    Rounded down, as printed in the paper, only a box as large as the image gets the largest mask;
    rounded up, the shares come near those the paper reports.

    Args:
        boxes: (x0, y0, x1, y1) in pixels [N, 4].
        image_areas: Pixels of each box's image [N].
        num_states: How many states there are.
        rounding: ``"ceil"`` or ``"floor"``.

    Returns:
        State of each box [N] int64; 0 for a box of no or undefined area.
    """
    round = {"ceil": torch.ceil, "floor": torch.floor}[rounding]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    level = round(num_states + 0.5 * torch.log2(areas.clamp(min=0) / image_areas)) - 1
    return level.nan_to_num(0).clamp(0, num_states - 1).long()


class Selector(nn.Module):
    """Gives each RoI a mask size: learned, fixed, or by box size.

    Args:
        sizes: The mask sizes, rising.
        channels: Channels of the switch's RoI features.
        input_size: Side of the switch's RoI features.
        mode: ``"dynamic"`` asks the switch; ``"fixed=k"`` gives every RoI size number k (or a size
            itself: ``"fixed=56"``); ``"size"`` goes by box size.
        squeeze: See :class:`MaskSwitch`.
        temperature: See :func:`straight_through`.
        rounding: See :func:`states_by_box_size`.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        channels: int,
        input_size: int,
        *,
        mode: str = "dynamic",
        squeeze: bool = True,
        temperature: float = 0.5,
        rounding: str = "ceil",
    ) -> None:
        super().__init__()
        if rounding not in ("ceil", "floor"):
            raise ValueError(f"Selector: expected rounding 'ceil' or 'floor', got {rounding!r}")
        self.sizes = tuple(sizes)
        self.switch = MaskSwitch(channels, input_size, len(self.sizes), squeeze=squeeze)
        self.temperature = temperature
        self.rounding = rounding
        self.mode = mode

    @property
    def mode(self) -> str:
        """``"dynamic"``, ``"fixed=k"`` or ``"size"``."""
        return self._mode

    @mode.setter
    def mode(self, mode: str) -> None:
        self._fixed_state = self._parse(mode)
        self._mode = mode

    def _parse(self, mode: str) -> int | None:
        if mode in ("dynamic", "size"):
            return None
        name, _, number = mode.partition("=")
        if name == "fixed" and number.isdecimal():
            if int(number) in self.sizes:
                return self.sizes.index(int(number))
            if int(number) < len(self.sizes):
                return int(number)
        raise ValueError(
            f"Selector: expected mode 'dynamic', 'size', or 'fixed=k' with k a mask size "
            f"{self.sizes} or its number from 0, got {mode!r}"
        )

    @property
    def is_learned(self) -> bool:
        return self._mode == "dynamic"

    def forward(
        self, instances: Instances, image_areas: Tensor, features: Tensor | None
    ) -> Selection:
        """Chooses.

        Args:
            instances: The RoIs.
            image_areas: Pixels of every image of the batch [B].
            features: RoI features for the switch [N, C, S, S]; not read unless it is asked.
        """
        num_states = len(self.sizes)
        if self.is_learned:
            if features is None:
                raise ValueError("Selector: expected RoI features in mode 'dynamic', got None")
            logits = self.switch(features)
            if not self.training:
                return Selection(logits.argmax(1))
            choice = straight_through(logits, self.temperature)
            return Selection(choice.detach().argmax(1), choice, F.softmax(logits, 1))
        if self._fixed_state is not None:
            state = torch.full_like(instances.labels, self._fixed_state)
        else:
            areas = image_areas[instances.batch]
            state = states_by_box_size(instances.boxes, areas, num_states, self.rounding)
        if not self.training:
            return Selection(state)
        return Selection(state, F.one_hot(state, num_states).to(instances.boxes))
