"""dynamask: instance segmentation where every object gets the mask resolution it needs."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynamask.facade import DynaMask

__version__ = "0.1.0"
__all__ = ["DynaMask", "__version__"]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import, which `dynamask --help` has no use for
    if name == "DynaMask":
        from dynamask.facade import DynaMask

        return DynaMask
    raise AttributeError(f"module 'dynamask' has no attribute {name!r}")
