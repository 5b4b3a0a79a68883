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


def list_accelerators(name: str = "auto") -> "list[torch.device]":
    """Return the accelerators that `name` means: every CUDA device of this machine for 'auto' and 'cuda'.

    Parameters
    ----------
    name : str
        auto, cpu, mps, cuda, cuda:1.

    Returns
    -------
    list of torch.device
        Empty where the CPU is meant.

    Raises
    ------
    RunError
        As `pick_device`.
    """
    import torch

    device = pick_device(name)
    if device.type == "cpu":
        return []
    if device.type == "cuda" and device.index is None:
        return [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    return [device]
