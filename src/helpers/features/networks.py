"""Frozen timm networks: resize and normalise on the device, run in the precision that was asked for, pool, return.

The resizing is antialiased bicubic, as in the transforms these networks were trained with; on the CPU it works on whole
grey levels, on an accelerator it works in floating point and rounds to them, so that both see the same input to within
one grey level.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from helpers.core.errors import FeatureError, RunError
from helpers.features.registry import EncoderEntry

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "float32", "bfloat16", "float16"]
LEFT_OVER: Final = frozenset({"fc", "head", "classifier", "head_dist", "AuxLogits", "mask_token"})
"""First parts of the names of tensors that a file may hold beyond what features need."""


def choose_precision(wanted: Precision, device: "torch.device") -> str:
    """Decide in which numbers a network is computed.

    Parameters
    ----------
    wanted : {'auto', 'float32', 'bfloat16', 'float16'}
        'auto' is bfloat16 where the device computes it faster than float32 (CUDA from Ampere on, CPUs with tile or
        AVX-512 instructions for it), float32 elsewhere.
    device : torch.device

    Returns
    -------
    str

    Raises
    ------
    FeatureError
        When the device cannot do it.
    """
    if wanted == "float16" and device.type == "cpu":
        msg = "FeatureError: precision float16 is not for CPUs. Use precision: bfloat16 or float32, or an accelerator."
        raise FeatureError(msg)
    if wanted != "auto":
        return wanted
    return "bfloat16" if has_fast_bfloat16(device) else "float32"


def has_fast_bfloat16(device: "torch.device") -> bool:
    """Say whether a device has instructions for bfloat16.

    Parameters
    ----------
    device : torch.device

    Returns
    -------
    bool
    """
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.get_device_capability(device)[0] >= 8)
    if device.type == "cpu":
        able = torch.backends.cpu.get_cpu_capability()
        return able.startswith("AVX512") and _reads_flag("avx512_bf16")
    return False


def _reads_flag(flag: str) -> bool:
    """Say whether the kernel lists a flag of this CPU; False where it keeps no such list."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return any(line.startswith("flags") and f" {flag}" in line for line in file)
    except OSError:
        return False


class TimmNetwork:
    """A timm network without its classifier, on one device. May be called from several threads.

    Parameters
    ----------
    entry : EncoderEntry
    state : dict of str to Tensor
        Weights.
    weights_sha256 : str
        Or what stands in its place for random weights.
    device : torch.device
    precision : str
        float32, bfloat16 or float16: of autocast; features are float32.
    compiled : bool
        Whether torch.compile makes it faster first.

    Raises
    ------
    FeatureError
        When weights and architecture do not fit.
    """

    columns: tuple[str, ...] = ()
    needs_stains = False

    def __init__(
        self,
        entry: EncoderEntry,
        *,
        state: "dict[str, torch.Tensor]",
        weights_sha256: str,
        device: "torch.device",
        precision: str = "float32",
        compiled: bool = False,
    ) -> None:
        import torch

        self.name, self.entry, self.device = entry.name, entry, device
        self._sha, self._precision, self._compiled = weights_sha256, precision, compiled
        network = build_network(entry, state).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network: Any = network
        folded = fold_norms(network)
        self._run: Any = torch.compile(folded) if compiled else folded
        bias, scale = (-np.asarray(entry.mean) / entry.sd, 1 / (255 * np.asarray(entry.sd)))
        self._bias, self._scale = (torch.tensor(values, dtype=torch.float32, device=device) for values in (bias, scale))

    @property
    def dimension(self) -> int:
        """Numbers per tile."""
        return self.entry.dimension

    @property
    def identity(self) -> dict[str, Any]:
        """Architecture, weights, input, pooling and precision. What is compiled computes the same to rounding."""
        entry = self.entry
        arguments = ", ".join(f"{name}={value}" for name, value in sorted(entry.model_args.items()))
        resize = f", resized to {entry.resize_px}" if entry.resize_px else ""
        size = "tiles as they are" if entry.any_size else f"{entry.size_px} px"
        return {
            "encoder": self.name,
            "encoder_version": f"{entry.architecture}({arguments}) {size}{resize}, {entry.pooling}",
            "weights_sha256": self._sha,
            "precision": self._precision + (", compiled" if self._compiled else ""),
        }

    def copy_to(self, device: "torch.device") -> "TimmNetwork":
        """Return this network on a device: itself where it lies there already.

        Parameters
        ----------
        device : torch.device

        Returns
        -------
        TimmNetwork
        """
        if device == self.device:
            return self
        return TimmNetwork(
            self.entry,
            state=self.network.state_dict(),
            weights_sha256=self._sha,
            device=device,
            precision=self._precision,
            compiled=self._compiled,
        )

    def encode(self, tiles: "NDArray[np.uint8] | torch.Tensor", context: object = None) -> NDArray[np.float32]:
        """Run the network on a batch.

        Parameters
        ----------
        tiles : ndarray, (n, H, W, 3), or Tensor, (n, 3, H, W), uint8
            A tensor may lie on another device; its pixels must be there, not on their way.
        context : object
            Not read: a network sees pixels alone.

        Returns
        -------
        ndarray, (n, d), float32

        Raises
        ------
        RunError
            When the device gives up: out of memory, or lost. Nothing finished is lost.
        """
        import torch

        try:
            with torch.inference_mode():
                batch = place_tiles(tiles, self.device)
                return np.asarray(self.compute(batch).float().cpu().numpy(), dtype=np.float32)
        except RuntimeError as error:
            if self.device.type == "cpu":
                raise
            raise RunError(describe_device_failure(error, self.name, self.device, len(tiles))) from error

    def compute(self, batch: "torch.Tensor") -> "torch.Tensor":
        """Prepare, run and pool a batch that lies on the device.

        Parameters
        ----------
        batch : Tensor, (n, 3, H, W), uint8

        Returns
        -------
        Tensor, (n, d)
        """
        resized = resize_tiles(batch, self.entry)
        return self.infer(normalise_tiles(resized, self._bias, self._scale, dtype=self._precision))

    def infer(self, prepared: "torch.Tensor") -> "torch.Tensor":
        """Run and pool a batch that is resized and normalised.

        Parameters
        ----------
        prepared : Tensor, (n, 3, size_px, size_px), channels last

        Returns
        -------
        Tensor, (n, d)
        """
        import torch

        mixed = self._precision != "float32"
        with torch.autocast(self.device.type, getattr(torch, self._precision), enabled=mixed):
            found: torch.Tensor = self._run(prepared)
        return found if self.entry.pooling == "model" else pool_tokens(found, self.network)


def place_tiles(tiles: "NDArray[np.uint8] | torch.Tensor", device: "torch.device") -> "torch.Tensor":
    """Bring a batch to a device: from memory, from another device, or not at all.

    Parameters
    ----------
    tiles : ndarray, (n, H, W, 3), or Tensor, (n, 3, H, W), uint8
    device : torch.device

    Returns
    -------
    Tensor, (n, 3, H, W), uint8, channels last
    """
    import torch

    if isinstance(tiles, torch.Tensor):
        return tiles.to(device, non_blocking=True)
    return torch.from_numpy(tiles).to(device, non_blocking=True).permute(0, 3, 1, 2)


def pool_tokens(tokens: "torch.Tensor", network: Any) -> "torch.Tensor":
    """Put the class token beside the mean of the image tokens; registers are left out.

    Parameters
    ----------
    tokens : Tensor, (n, n_tokens, d)
    network : nn.Module
        Knows how many tokens stand before those of the image.

    Returns
    -------
    Tensor, (n, 2 d)
    """
    import torch

    return torch.cat([tokens[:, 0], tokens[:, int(network.num_prefix_tokens) :].mean(dim=1)], dim=-1)


def resize_tiles(batch: "torch.Tensor", entry: EncoderEntry) -> "torch.Tensor":
    """Bring tiles to a network's input: resized where they differ, cut at the centre where the entry says so.

    Parameters
    ----------
    batch : Tensor, (n, 3, H, W), uint8
    entry : EncoderEntry

    Returns
    -------
    Tensor, (n, 3, size_px, size_px), uint8 or float32 of whole grey levels
    """
    import torch
    from torch.nn.functional import interpolate

    if entry.any_size:
        return batch
    edge = entry.resize_px or entry.size_px
    if tuple(batch.shape[-2:]) != (edge, edge):
        if batch.device.type == "cpu" and batch.dtype == torch.uint8:
            batch = interpolate(batch, (edge, edge), mode="bicubic", antialias=True)
        else:  # the same by hand: along the rows, then along the columns, whole grey levels after each
            for size in ((batch.shape[-2], edge), (edge, edge)):
                batch = interpolate(batch.float(), size, mode="bicubic", antialias=True).round_().clamp_(0, 255)
    margin = (edge - entry.size_px) // 2
    return batch[..., margin : margin + entry.size_px, margin : margin + entry.size_px] if margin else batch


def fold_norms(network: "torch.nn.Module") -> "torch.nn.Module":
    """Multiply the fixed scales of batch normalisation into the convolutions before them: the same function, faster.

    Parameters
    ----------
    network : nn.Module
        Ready to evaluate.

    Returns
    -------
    nn.Module
        A copy; the network itself where it has no plain batch normalisation (transformers, Inception).
    """
    import torch
    from torch.fx.experimental.optimization import fuse

    if not any(type(module) is torch.nn.BatchNorm2d for module in network.modules()):
        return network
    folded: torch.nn.Module = fuse(network).eval()
    return folded


def normalise_tiles(
    batch: "torch.Tensor", bias: "torch.Tensor", scale: "torch.Tensor", *, dtype: str
) -> "torch.Tensor":
    """Centre and scale grey levels, in the numbers in which the network will read them.

    On a CPU it goes tile by tile, row by row: a tile stays in the cache, and a row of pixels with its three colours is
    one long vector. That is six times as fast as the plain formula over a batch.

    Parameters
    ----------
    batch : Tensor, (n, 3, H, W), grey levels
    bias, scale : Tensor, (3,), float32
    dtype : str
        Name of the result's type.

    Returns
    -------
    Tensor, (n, 3, H, W), channels last
        batch * scale + bias.
    """
    import torch

    tall = batch.permute(0, 2, 3, 1).contiguous()  # (n, H, W, 3)
    if batch.device.type != "cpu":
        return torch.addcmul(bias, tall.float(), scale).to(getattr(torch, dtype)).permute(0, 3, 1, 2)
    n_tiles, height, width, _ = tall.shape
    rows = tall.view(n_tiles, height, width * 3)
    out = torch.empty(rows.shape, dtype=getattr(torch, dtype))
    long_bias, long_scale = bias.repeat(width), scale.repeat(width)
    for number in range(n_tiles):
        out[number] = torch.addcmul(long_bias, rows[number].float(), long_scale)
    return out.view(n_tiles, height, width, 3).permute(0, 3, 1, 2)


def build_network(entry: EncoderEntry, state: "Mapping[str, torch.Tensor]") -> "torch.nn.Module":
    """Make the architecture of an entry with the given weights, ready to evaluate.

    Parameters
    ----------
    entry : EncoderEntry
    state : mapping of str to Tensor

    Returns
    -------
    nn.Module

    Raises
    ------
    FeatureError
        When tensors are missing, unknown or of another shape.
    """
    import torch

    with torch.device("meta"):  # no time is spent on weights that are replaced at once
        outline = create_architecture(entry)
    wanted = outline.state_dict()
    _check_fit(wanted, state, entry)
    if {name for name, _ in outline.named_buffers()} - set(wanted):  # buffers that no file holds must be computed
        network = create_architecture(entry)
        network.load_state_dict({key: state[key] for key in wanted})
    else:
        network = outline
        network.load_state_dict({key: _adopt(state[key], wanted[key]) for key in wanted}, assign=True)
    return network.eval().requires_grad_(requires_grad=False)


def _adopt(given: "torch.Tensor", wanted: "torch.Tensor") -> "torch.Tensor":
    """Return a weight in the type the architecture has, in memory of its own."""
    return given.to(wanted.dtype, copy=True)


def create_architecture(entry: EncoderEntry) -> "torch.nn.Module":
    """Make the architecture of an entry, with weights as torch draws them.

    Parameters
    ----------
    entry : EncoderEntry

    Returns
    -------
    nn.Module
    """
    import timm
    from timm import layers

    arguments = {
        name: getattr(layers, value) if name == "mlp_layer" else value for name, value in entry.model_args.items()
    }
    network: torch.nn.Module = timm.create_model(entry.architecture, pretrained=False, num_classes=0, **arguments)
    return network


def _check_fit(wanted: "Mapping[str, torch.Tensor]", state: "Mapping[str, torch.Tensor]", entry: EncoderEntry) -> None:
    """Only a classifier may be left over, nothing may be missing."""
    missing = sorted(set(wanted) - set(state))
    unknown = sorted(key for key in set(state) - set(wanted) if key.split(".")[0] not in LEFT_OVER)
    wrong = sorted(key for key in set(wanted) & set(state) if wanted[key].shape != state[key].shape)
    if missing or unknown or wrong:
        msg = (
            f"FeatureError: the weights given for '{entry.name}' do not fit its architecture ({entry.architecture}): "
            f"{len(missing)} tensors missing (first {missing[:2]}), {len(unknown)} unknown (first {unknown[:2]}), "
            f"{len(wrong)} of another shape (first {wrong[:2]}). Give the file that belongs to this architecture."
        )
        raise FeatureError(msg)


def describe_device_failure(error: RuntimeError, name: str, device: "torch.device", n_tiles: int) -> str:
    """Say what an accelerator's failure means and what to do.

    Parameters
    ----------
    error : RuntimeError
    name : str
        Of the encoder.
    device : torch.device
    n_tiles : int
        In the batch.

    Returns
    -------
    str
        A message that begins with 'RunError:'.
    """
    import torch

    said = " ".join(str(error).split())[:160]
    if isinstance(error, torch.OutOfMemoryError):
        return (
            f"RunError: '{name}' does not fit {device} with {n_tiles} tiles at once ({said}). Lower batch_size, or use "
            "precision: bfloat16; finished slides are kept."
        )
    return (
        f"RunError: device {device} failed while running '{name}' ({said}). Finished slides are kept: run again on "
        "another device, or when this one is back."
    )


def draw_weights(entry: EncoderEntry, seed: int) -> "dict[str, torch.Tensor]":
    """Draw the weights of a control, seeded.

    Parameters
    ----------
    entry : EncoderEntry
    seed : int

    Returns
    -------
    dict of str to Tensor
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return create_architecture(entry).state_dict()
