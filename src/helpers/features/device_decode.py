"""A slide's own JPEG tiles, decoded where the networks run: streams go to the card, pixels are born there.

Torchvision's nvJPEG takes the streams of a batch as one list; each native tile is decoded once per batch, stitched and
averaged to tiles on the device, by the geometry of `Slide.read_box`. On a CPU the same code decodes with the
libjpeg-turbo of torchvision, which is how it is tested.

nvJPEG is another decoder: it rounds otherwise and may repeat chroma where libjpeg-turbo interpolates. How far it lies
from libjpeg-turbo is therefore measured on some native tiles of every slide and stored with its features; a slide whose
colours come out wrong, or that cannot be decoded there, is decoded on the host, and its features say why.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from helpers.core.device import list_accelerators
from helpers.core.errors import FeatureError, RunError
from helpers.features.networks import describe_device_failure
from helpers.slides.jpegtiff import SOI, JpegTiffSource, NativeLevel, NotDirectError, complete_stream
from helpers.slides.reader import Region, Slide
from helpers.slides.resample import Box, is_whole, weigh_pixels
from helpers.slides.tilefile import TileTable
from helpers.slides.tiling import locate_tile

if TYPE_CHECKING:
    import torch

HOST_DECODERS: Final = {"jpeg-tiff": "libjpeg-turbo", "openslide": "openslide"}
"""What decodes on the host, by the name of the slide's source."""
N_CHECKED: Final = 4
"""Native tiles of a slide on which the device's decoder is compared with libjpeg-turbo."""
MAX_MEAN_DIFFERENCE: Final = 3.0
"""Grey levels. Chroma that is repeated instead of interpolated makes 0.2 to 0.8 on tissue, red and blue exchanged 7 to
10, YCbCr taken for RGB 50."""
OUT_OF_MEMORY: Final = "out of memory"


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """Who decoded a slide's tiles.

    Attributes
    ----------
    decoder : str
        libjpeg-turbo, openslide, or nvjpeg with the version of torchvision.
    note : str
        Why it was not the device that was asked for; empty where it was, or none was asked for.
    mean_difference, max_difference : float
        From libjpeg-turbo, grey levels, on some native tiles of the slide; 0 on the host.
    """

    decoder: str
    note: str = ""
    mean_difference: float = 0.0
    max_difference: float = 0.0

    def to_attributes(self) -> dict[str, Any]:
        """Return plain values to store beside the features.

        Returns
        -------
        dict
        """
        return {
            "decoder": self.decoder,
            "decoder_note": self.note,
            "decoder_mean_difference": self.mean_difference,
            "decoder_max_difference": self.max_difference,
        }


def pick_decoding_device(decode: Literal["host", "cuda"], device: str = "auto") -> "torch.device | None":
    """Return the card that decodes.

    With several cards it is the first: torchvision keeps one nvJPEG decoder per process and builds a new one, without
    freeing the old, whenever the card changes. The other cards fetch their batches from it.

    Parameters
    ----------
    decode : {'host', 'cuda'}
    device : str
        Of the networks: auto, cpu, mps, cuda, cuda:1.

    Returns
    -------
    torch.device or None
        None for the host.

    Raises
    ------
    FeatureError
        When a card is asked for and there is none.
    """
    if decode == "host":
        return None
    found = list_accelerators(device)
    if not found or found[0].type != "cuda":
        kind = found[0].type if found else "cpu"
        msg = (
            f"FeatureError: decode: cuda needs a CUDA device, and device: {device} means {kind} on this machine. "
            "Use decode: host, or run on a machine with an NVIDIA card."
        )
        raise FeatureError(msg)
    return found[0]


def name_decoder(kind: str) -> str:
    """Return what decodes on a device, with its version: part of the key of features that were asked of it.

    Parameters
    ----------
    kind : str
        cuda or cpu.

    Returns
    -------
    str
    """
    import torchvision

    return f"{'nvjpeg' if kind == 'cuda' else 'libjpeg-turbo'} (torchvision {torchvision.__version__})"


def plan_decoding(slide: Slide, table: TileTable, device: "torch.device | None") -> Decoding:
    """Decide who decodes a slide: the device where it can and its colours are right, the host otherwise.

    Parameters
    ----------
    slide : Slide
    table : TileTable
    device : torch.device or None
        None for the host.

    Returns
    -------
    Decoding
        With an empty note where the device decodes, or none was asked for.

    Raises
    ------
    RunError
        When the device is lost or its memory full.
    """
    if device is None:
        return describe_host(slide)
    try:
        level = find_level(slide, table)
        mean, largest = measure_difference(slide, table, device=device)
    except NotDirectError as error:
        return describe_host(slide, note=str(error))
    if mean > MAX_MEAN_DIFFERENCE:
        note = (
            f"{name_decoder(device.type)} differs from libjpeg-turbo by {mean:.1f} grey levels on level {level}, "
            f"expected at most {MAX_MEAN_DIFFERENCE:g}"
        )
        return describe_host(slide, note=note)
    return Decoding(decoder=name_decoder(device.type), mean_difference=mean, max_difference=largest)


def describe_host(slide: Slide, *, note: str = "") -> Decoding:
    """Say who decodes a slide on the host.

    Parameters
    ----------
    slide : Slide
    note : str
        Why the device does not.

    Returns
    -------
    Decoding
    """
    why = f"decoded on the host: {note}" if note else ""
    return Decoding(decoder=HOST_DECODERS[slide.source.name], note=why)


def find_level(slide: Slide, table: TileTable) -> int:
    """Return the level that a slide's tiles are read from, where a device can decode it.

    Parameters
    ----------
    slide : Slide
    table : TileTable

    Returns
    -------
    int

    Raises
    ------
    NotDirectError
        When the slide is not read tile by tile, or its components are RGB, which nvJPEG would take for YCbCr.
    """
    source = slide.source
    if not isinstance(source, JpegTiffSource):
        raise NotDirectError(source.note or "the slide is read through OpenSlide")
    level = plan_tile(slide, table, 0).level
    if source.list_levels()[level].colour == "rgb":
        msg = f"level {level} stores RGB components, which nvJPEG takes for YCbCr"
        raise NotDirectError(msg)
    return level


def plan_tile(slide: Slide, table: TileTable, index: int) -> Region:
    """Return the pixels that a tile is made of.

    Parameters
    ----------
    slide : Slide
    table : TileTable
    index : int

    Returns
    -------
    Region
    """
    return slide.plan_read(locate_tile(table, index), width=table.tile_px, height=table.tile_px)


def iterate_on_device(
    slide: Slide, table: TileTable, *, batch_size: int, device: "torch.device"
) -> "Iterator[torch.Tensor]":
    """Decode the tiles of a slide on a device in raster order, in batches, so that memory stays bounded.

    Parameters
    ----------
    slide : Slide
    table : TileTable
    batch_size : int
    device : torch.device

    Yields
    ------
    Tensor, (up to batch_size, 3, tile_px, tile_px), uint8
    """
    n_tiles = len(table.coords_l0)
    for start in range(0, n_tiles, batch_size):
        yield read_batch_on_device(slide, table, start, min(start + batch_size, n_tiles), device=device)


def read_batch_on_device(
    slide: Slide, table: TileTable, start: int, stop: int, *, device: "torch.device"
) -> "torch.Tensor":
    """Decode the native tiles under some tiles, each once, and make the tiles of them; all on the device.

    Parameters
    ----------
    slide : Slide
    table : TileTable
    start, stop : int
        Tiles from `start` up to, not including, `stop`.
    device : torch.device

    Returns
    -------
    Tensor, (stop - start, 3, tile_px, tile_px), uint8, channels last
        Finished, so that any stream may read it. Equal to `Slide.read_box` to within one grey level where the decoder
        is libjpeg-turbo. Every tile is computed alone: batches change nothing.

    Raises
    ------
    NotDirectError
        When the slide, or a stream of it, cannot be decoded on the device.
    RunError
        When the device is lost or its memory full.
    """
    import torch

    level = find_level(slide, table)
    source = slide.source
    assert isinstance(source, JpegTiffSource)
    regions = [plan_tile(slide, table, index) for index in range(start, stop)]
    grids = [list_numbers(source.list_levels()[level], region) for region in regions]
    numbers = np.unique(np.concatenate([grid.ravel() for grid in grids]))
    with torch.inference_mode(), report_failures(device, len(regions)):
        natives = decode_natives(source, level, numbers.tolist(), device=device)  # (k, 3, tile_height, tile_width)
        shape = (len(regions), 3, table.tile_px, table.tile_px)
        tiles = torch.empty(shape, dtype=torch.uint8, device=device, memory_format=torch.channels_last)
        average = Averager(table.tile_px, device)
        places = torch.from_numpy(np.concatenate([np.searchsorted(numbers, grid).ravel() for grid in grids])).to(device)
        parts = places.split([grid.size for grid in grids])
        for tile, region, grid, part in zip(tiles, regions, grids, parts, strict=True):
            tile.copy_(average(stitch(natives[part], region, grid.shape), region.inner))
        wait_for(device)
    return tiles


def list_numbers(native: NativeLevel, region: Region) -> NDArray[np.int64]:
    """Return the numbers of the native tiles that a region touches.

    Parameters
    ----------
    native : NativeLevel
    region : Region

    Returns
    -------
    ndarray, (n_rows, n_columns), int64
    """
    rows = np.arange(region.y // native.tile_height, -(-(region.y + region.height) // native.tile_height))
    columns = np.arange(region.x // native.tile_width, -(-(region.x + region.width) // native.tile_width))
    return rows[:, None] * native.n_across + columns


def decode_natives(
    source: JpegTiffSource, level: int, numbers: Sequence[int], *, device: "torch.device"
) -> "torch.Tensor":
    """Decode native tiles on a device, in one call; those never written are glass.

    Parameters
    ----------
    source : JpegTiffSource
    level : int
    numbers : sequence of int
        In raster order.
    device : torch.device

    Returns
    -------
    Tensor, (k, 3, tile_height, tile_width), uint8

    Raises
    ------
    NotDirectError
        When a stream is cut short, refused, or of another size than the directory says.
    """
    import torch

    native = source.list_levels()[level]
    written = [number for number in numbers if native.sizes[number]]
    glass = torch.tensor(source.background, dtype=torch.uint8, device=device)[:, None, None]
    images = dict.fromkeys(numbers, glass.expand(3, native.tile_height, native.tile_width))
    images |= zip(written, decode_streams([read_stream(source, level, n) for n in written], device=device), strict=True)
    for number in written:
        if images[number].shape != (3, native.tile_height, native.tile_width):
            found = " x ".join(str(edge) for edge in images[number].shape[:0:-1])
            msg = f"native tile {number} has {found} px, expected {native.tile_width} x {native.tile_height}"
            raise NotDirectError(msg)
    return torch.stack([images[number] for number in numbers])


def read_stream(source: JpegTiffSource, level: int, number: int) -> bytes:
    """Return a native tile's stream with the shared tables and the colour marker in it.

    Parameters
    ----------
    source : JpegTiffSource
    level : int
    number : int

    Returns
    -------
    bytes

    Raises
    ------
    NotDirectError
        When the file ends before, or it is no JPEG stream of the colours the directory names.
    """
    native = source.list_levels()[level]
    data = source.read_stream(level, number)
    if len(data) != native.sizes[number] or data[:2] != SOI:
        msg = f"native tile {number} has {len(data)} of {native.sizes[number]} bytes, or is no JPEG stream"
        raise NotDirectError(msg)
    return complete_stream(data, native)


def decode_streams(streams: Sequence[bytes], *, device: "torch.device") -> "list[torch.Tensor]":
    """Decode whole JPEG streams on a device.

    Parameters
    ----------
    streams : sequence of bytes
    device : torch.device

    Returns
    -------
    list of Tensor, (3, H, W), uint8

    Raises
    ------
    NotDirectError
        When the decoder refuses a stream while the device is well.
    RuntimeError
        When the device is lost or its memory full.
    """
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    if not streams:
        return []
    packed = [torch.frombuffer(bytearray(stream), dtype=torch.uint8) for stream in streams]
    try:
        images: list[torch.Tensor] = decode_jpeg(packed, mode=ImageReadMode.RGB, device=device)
        wait_for(device)
    except RuntimeError as error:
        if OUT_OF_MEMORY in str(error).lower():
            raise
        torch.zeros(1, device=device).add_(1).cpu()  # fails where it is the device and not the stream
        msg = f"a stream is refused by {name_decoder(device.type)} ({' '.join(str(error).split())[:120]})"
        raise NotDirectError(msg) from None
    return images


def stitch(natives: "torch.Tensor", region: Region, grid: tuple[int, ...]) -> "torch.Tensor":
    """Lay native tiles side by side and cut a region out of them.

    Parameters
    ----------
    natives : Tensor, (n_rows * n_columns, 3, tile_height, tile_width)
        Those that the region touches, in raster order.
    region : Region
    grid : tuple of 2 ints
        (n_rows, n_columns).

    Returns
    -------
    Tensor, (3, region.height, region.width)
    """
    n_rows, n_columns = grid
    height, width = natives.shape[-2:]
    laid = natives.view(n_rows, n_columns, 3, height, width).permute(2, 0, 3, 1, 4)
    top, left = region.y % height, region.x % width
    whole = laid.reshape(3, n_rows * height, n_columns * width)
    return whole[:, top : top + region.height, left : left + region.width]


class Averager:
    """Area means of regions on a device: a dense weight matrix per axis, made once for all regions of one geometry.

    Parameters
    ----------
    edge : int
        Of the result, px.
    device : torch.device
    """

    def __init__(self, edge: int, device: "torch.device") -> None:
        self._edge = edge
        self._device = device
        self._weights: dict[tuple[float, float, int], torch.Tensor] = {}

    def __call__(self, region: "torch.Tensor", box: Box) -> "torch.Tensor":
        """Average the part of a region that lies in a box.

        Parameters
        ----------
        region : Tensor, (3, H, W), uint8
            Its last row and column stand for what a box covers beyond them.
        box : Box
            Px of the region.

        Returns
        -------
        Tensor, (3, edge, edge)
            Whole grey levels.
        """
        height, width = region.shape[-2:]
        if is_whole(box, self._edge, self._edge) and (height, width) == (self._edge, self._edge):
            return region
        rows = self._weigh(box.top, box.height, height)  # (edge, H)
        columns = self._weigh(box.left, box.width, width)  # (edge, W)
        means = rows @ region.float() @ columns.T
        if is_whole(box, 2 * self._edge, 2 * self._edge):  # where OpenCV, on the host, rounds a half up
            return means.add_(0.5).floor_()
        return means.round_().clamp_(0, 255)

    def _weigh(self, start: float, length: float, size: int) -> "torch.Tensor":
        import torch

        key = (round(start, 6), round(length, 6), size)  # what differs by less is the same geometry
        if key not in self._weights:
            weights = weigh_pixels(key[0], key[1], size=size, n_out=self._edge)
            self._weights[key] = torch.from_numpy(weights.toarray()).to(self._device)
        return self._weights[key]


def measure_difference(slide: Slide, table: TileTable, *, device: "torch.device") -> tuple[float, float]:
    """Compare the device's decoder with libjpeg-turbo on native tiles from all over a slide's tissue.

    Parameters
    ----------
    slide : Slide
    table : TileTable
    device : torch.device

    Returns
    -------
    mean, largest : float
        Of the absolute differences of grey levels; 0 where none of these native tiles was ever written.

    Raises
    ------
    NotDirectError
        When one of them cannot be decoded on the device.
    RunError
        When the device is lost or its memory full.
    """
    import torch

    source, level = slide.source, find_level(slide, table)
    assert isinstance(source, JpegTiffSource)
    numbers = pick_natives(slide, table, source.list_levels()[level])
    with torch.inference_mode(), report_failures(device, len(numbers)):
        natives = decode_natives(source, level, numbers, device=device).permute(0, 2, 3, 1).cpu().numpy()
    differences = []
    for number, found in zip(numbers, natives, strict=True):
        expected = read_native(source, level, number)
        height, width = expected.shape[:2]
        differences.append(np.abs(found[:height, :width].astype(int) - expected).ravel())
    every = np.concatenate(differences)
    return float(every.mean()), float(every.max())


def pick_natives(slide: Slide, table: TileTable, native: NativeLevel) -> list[int]:
    """Choose native tiles from all over a slide's tissue.

    Parameters
    ----------
    slide : Slide
    table : TileTable
    native : NativeLevel

    Returns
    -------
    list of int
        Up to `N_CHECKED` numbers, in raster order: those under the centres of evenly spread tiles.
    """
    n_tiles = len(table.coords_l0)
    chosen = np.linspace(0, n_tiles - 1, min(N_CHECKED, n_tiles)).round().astype(int)
    grids = [list_numbers(native, plan_tile(slide, table, int(index))) for index in chosen]
    return sorted({int(grid[len(grid) // 2, len(grid[0]) // 2]) for grid in grids})


def read_native(source: JpegTiffSource, level: int, number: int) -> NDArray[np.uint8]:
    """Decode a native tile on the host, as far as the level reaches.

    Parameters
    ----------
    source : JpegTiffSource
    level : int
    number : int

    Returns
    -------
    ndarray, (up to tile_height, up to tile_width, 3), uint8
    """
    native = source.list_levels()[level]
    row, column = divmod(number, native.n_across)
    x, y = column * native.tile_width, row * native.tile_height
    size = min(native.tile_width, native.width - x), min(native.tile_height, native.height - y)
    return source.read_level(level, x, y, *size)


def fetch_tiles(tiles: "torch.Tensor") -> NDArray[np.uint8]:
    """Copy tiles to the host, for what works on arrays.

    Parameters
    ----------
    tiles : Tensor, (n, 3, H, W), uint8

    Returns
    -------
    ndarray, (n, H, W, 3), uint8
    """
    return np.asarray(tiles.permute(0, 2, 3, 1).contiguous().cpu().numpy(), dtype=np.uint8)


def wait_for(device: "torch.device") -> None:
    """Wait until what this thread asked of a device is done, so that another thread's stream may read it.

    Parameters
    ----------
    device : torch.device
    """
    import torch

    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


@contextmanager
def report_failures(device: "torch.device", n_tiles: int) -> Iterator[None]:
    """Turn what a lost or full accelerator raises into an error that says so.

    Parameters
    ----------
    device : torch.device
    n_tiles : int
        Decoded at once, for the message.

    Yields
    ------
    None
    """
    try:
        yield
    except RuntimeError as error:
        if device.type == "cpu":
            raise
        raise RunError(describe_device_failure(error, "decode: cuda", device, n_tiles)) from error
