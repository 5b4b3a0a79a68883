"""Choose the accelerator. Torch is imported here and only when asked."""

from typing import TYPE_CHECKING

from helpers.core.errors import RunError

if TYPE_CHECKING:
    import torch


def pick_device(name: str = "auto") -> "torch.device":
    """Return the device that `name` means: cuda, then mps, then cpu where it is 'auto'.

    Parameters
    ----------
    name : str
        auto, cpu, mps, cuda, cuda:1.

    Returns
    -------
    torch.device

    Raises
    ------
    RunError
        When a device is asked for by name and this machine has none.
    """
    import torch

    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if has[kind]))
    if not has.get(name.partition(":")[0], False):
        found = [kind for kind, there in has.items() if there]
        msg = f"RunError: device '{name}' is not there (found {', '.join(found)}). Use device: auto, or one of these."
        raise RunError(msg)
    return torch.device(name)
