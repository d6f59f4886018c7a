"""What shows, without a GPU, that nothing waits for one."""

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class OnOneDevice(TorchDispatchMode):
    """Refuses to meet or make a tensor that is not on a GPU: to copy one is to wait."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for x in tree_leaves((args, kwargs, result)):
            if isinstance(x, Tensor) and x.device.type != "cuda":
                raise AssertionError(f"{function} of a tensor on {x.device}")
        return result
