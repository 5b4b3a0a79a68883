"""The table of encoders: one entry says all that decides an encoder's numbers, and what its weights cost in freedom.

Facts of the pathology models (architecture, tokens, input, normalisation, licence) are those of their model cards. An
entry is listed only if its architecture runs here from a local file of random weights (tests/features/test_registry).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal

Kind = Literal["descriptor", "control", "embedded", "network", "foundation"]
Pooling = Literal["model", "class_and_mean"]
Triple = tuple[float, float, float]

IMAGENET_MEAN: Final[Triple] = (0.485, 0.456, 0.406)
IMAGENET_SD: Final[Triple] = (0.229, 0.224, 0.225)
HALF: Final[Triple] = (0.5, 0.5, 0.5)
OPTIMUS_MEAN: Final[Triple] = (0.707223, 0.578729, 0.703617)
OPTIMUS_SD: Final[Triple] = (0.211883, 0.230117, 0.177517)


@dataclass(frozen=True, kw_only=True)
class EncoderEntry:
    """One line of the registry.

    Attributes
    ----------
    name : str
    kind : str
        'descriptor' (a formula), 'control', 'embedded' (weights lie in this repository), 'network' (ImageNet or natural
        images), 'foundation' (trained on pathology).
    about : str
        What it sees, in one sentence.
    dimension : int
        Numbers per tile.
    architecture : str
        timm's name; empty for descriptors.
    model_args : mapping
        Arguments of `timm.create_model`; layers by their names in `timm.layers`.
    pooling : {'model', 'class_and_mean'}
        What the model itself returns, or the class token beside the mean of the image tokens.
    size_px : int
        Edge of the network's input, px.
    any_size : bool
        Whether the network takes tiles as they are, whatever their size; then nothing is resized.
    resize_px : int or None
        Tiles are resized to this edge and cut at the centre to `size_px`; None: to `size_px`.
    mean, sd : tuple of 3 floats
        Normalisation of RGB as 0 to 1.
    mpp : float or None
        Resolution the weights were trained at, um per px of the input; None: photographs, no resolution.
    hub, filename : str
        Repository and file of the usual weights on the Hugging Face hub; empty where there are none.
    licence : str
        Of these weights.
    gate : str
        What must be accepted before they can be fetched; empty where nothing.
    source : str
        Paper or model card.
    """

    name: str
    kind: Kind
    about: str
    dimension: int
    architecture: str = ""
    model_args: Mapping[str, Any] = field(default_factory=dict)
    pooling: Pooling = "model"
    size_px: int = 224
    any_size: bool = False
    resize_px: int | None = None
    mean: Triple = IMAGENET_MEAN
    sd: Triple = IMAGENET_SD
    mpp: float | None = None
    hub: str = ""
    filename: str = "model.safetensors"
    licence: str = "MIT (this book)"
    gate: str = ""
    source: str = ""

    @property
    def needs_weights(self) -> bool:
        """Whether it is a network that was trained: then it runs on a file of weights and on nothing else."""
        return bool(self.architecture) and self.kind != "control"


def _list_descriptors() -> tuple[EncoderEntry, ...]:
    from helpers.features import pathomics, stain_texture

    return (
        EncoderEntry(
            name="stain_texture", kind="descriptor", dimension=len(stain_texture.COLUMNS),
            about="nuclei, chromatin texture, mitosis-like figures, stroma, lumina; lengths in um, stains per slide",
        ),
        EncoderEntry(
            name="pathomics", kind="descriptor", dimension=len(pathomics.COLUMNS),
            about="outlined nuclei, their shape, chromatin and neighbourhood, GLCM and LBP, stains; lengths in um",
        ),
        EncoderEntry(
            name="mean_colour", kind="control", dimension=13,
            about="mean and SD of colour and optical density: what stain and scanner alone give away",
        ),
        EncoderEntry(
            name="random_resnet18", kind="control", dimension=512, architecture="resnet18",
            about="ResNet-18 that was never trained (seeded): what architecture alone gives away",
        ),
        EncoderEntry(
            name="random_resnet50", kind="control", dimension=2048, architecture="resnet50",
            about="ResNet-50 that was never trained (seeded)",
        ),
    )  # fmt: skip


def _list_embedded() -> tuple[EncoderEntry, ...]:
    shared: dict[str, Any] = {
        "kind": "embedded", "dimension": 256, "architecture": "resnet18", "size_px": 256, "any_size": True, "mpp": 0.5,
        "model_args": {"layers": [1, 1, 1, 1], "channels": [32, 64, 128, 256]},
        "mean": (0.76, 0.58, 0.74), "sd": (0.16, 0.20, 0.14), "source": "chapter A1",
    }  # fmt: skip
    return (
        EncoderEntry(
            name="phantom-s",
            about="a ResNet of four blocks that taught itself on drawn tiles of another domain",
            **shared,
        ),
        EncoderEntry(
            name="phantom-s-morphology",
            about="the same network, taught planted morphology (density, size, TILs, tumour), never proliferation",
            **shared,
        ),
    )


def _list_networks() -> tuple[EncoderEntry, ...]:
    free = "Apache-2.0; trained on ImageNet, whose terms are for research"
    dino = "Apache-2.0"
    return (
        EncoderEntry(
            name="resnet18", kind="network", dimension=512, architecture="resnet18", hub="timm/resnet18.a1_in1k",
            about="ResNet-18, ImageNet", licence=free, source="arXiv:2110.00476",
        ),
        EncoderEntry(
            name="resnet50", kind="network", dimension=2048, architecture="resnet50", hub="timm/resnet50.a1_in1k",
            about="ResNet-50, ImageNet", licence=free, source="arXiv:2110.00476",
        ),
        EncoderEntry(
            name="inception_v3", kind="network", dimension=2048, architecture="inception_v3", size_px=299, mean=HALF,
            sd=HALF, hub="timm/inception_v3.tv_in1k", about="Inception-v3, ImageNet", licence=free,
            source="arXiv:1512.00567",
        ),
        EncoderEntry(
            name="dinov2_vits14", kind="network", dimension=384, architecture="vit_small_patch14_dinov2",
            model_args={"img_size": 224}, hub="timm/vit_small_patch14_dinov2.lvd142m",
            about="ViT-S/14, DINOv2 on natural images", licence=dino, source="arXiv:2304.07193",
        ),
        EncoderEntry(
            name="dinov2_vitb14", kind="network", dimension=768, architecture="vit_base_patch14_dinov2",
            model_args={"img_size": 224}, hub="timm/vit_base_patch14_dinov2.lvd142m",
            about="ViT-B/14, DINOv2 on natural images", licence=dino, source="arXiv:2304.07193",
        ),
    )  # fmt: skip


_SWIGLU: Final = {"mlp_layer": "SwiGLUPacked", "act_layer": "silu"}
_NC_ND: Final = "CC-BY-NC-ND-4.0: no commercial use, no altered copies"
_GATE: Final = "accept the terms on the model's page with an institutional address, then log in with a token"


def _list_vits_of_pathology() -> tuple[EncoderEntry, ...]:
    return (
        EncoderEntry(
            name="phikon", kind="foundation", dimension=768, architecture="vit_base_patch16_224", mpp=0.5,
            model_args={"img_size": 224}, hub="1aurent/vit_base_patch16_224.owkin_pancancer",
            about="ViT-B/16, iBOT on TCGA (weights converted for timm)", licence="Owkin non-commercial",
            source="doi:10.1101/2023.07.21.23292757",
        ),
        EncoderEntry(
            name="lunit_dino_s16", kind="foundation", dimension=384, architecture="vit_small_patch16_224", mpp=0.5,
            model_args={"img_size": 224}, hub="1aurent/vit_small_patch16_224.lunit_dino",
            mean=(0.70322989, 0.53606487, 0.66096631), sd=(0.21716536, 0.26081574, 0.20723464),
            about="ViT-S/16, DINO on TCGA and TULIP (weights converted for timm)", licence="Lunit non-commercial",
            source="arXiv:2212.04690",
        ),
        EncoderEntry(
            name="uni", kind="foundation", dimension=1024, architecture="vit_large_patch16_224", mpp=0.5,
            model_args={"img_size": 224, "init_values": 1e-5, "dynamic_img_size": True}, hub="MahmoodLab/UNI",
            filename="pytorch_model.bin", about="ViT-L/16, DINOv2 on 100,000 slides of Mass General Brigham",
            licence=_NC_ND, gate=_GATE, source="doi:10.1038/s41591-024-02857-3",
        ),
        EncoderEntry(
            name="uni2_h", kind="foundation", dimension=1536, architecture="vit_giant_patch14_224", mpp=0.5,
            model_args={
                "img_size": 224, "depth": 24, "num_heads": 24, "init_values": 1e-5, "embed_dim": 1536,
                "mlp_ratio": 2.66667 * 2, "no_embed_class": True, "reg_tokens": 8, "dynamic_img_size": True, **_SWIGLU,
            },
            hub="MahmoodLab/UNI2-h", filename="pytorch_model.bin",
            about="ViT-H/14, DINOv2 on more than 350,000 slides, H&E and IHC", licence=_NC_ND, gate=_GATE,
            source="doi:10.1038/s41591-024-02857-3",
        ),
    )  # fmt: skip


def _list_giants_of_pathology() -> tuple[EncoderEntry, ...]:
    virchow = {
        "img_size": 224, "init_values": 1e-5, "mlp_ratio": 5.3375, "dynamic_img_size": True, "global_pool": "",
        **_SWIGLU,
    }  # fmt: skip
    optimus = {"img_size": 224, "init_values": 1e-5}
    gigapath = {"img_size": 224, "patch_size": 16, "init_values": 1e-5, "mlp_ratio": 5.33334}
    return (
        EncoderEntry(
            name="virchow", kind="foundation", dimension=2560, architecture="vit_huge_patch14_224", mpp=0.5,
            model_args=virchow, pooling="class_and_mean", hub="paige-ai/Virchow", filename="pytorch_model.bin",
            about="ViT-H/14, DINOv2 on 1.5 million slides", licence="Apache-2.0", gate=_GATE,
            source="doi:10.1038/s41591-024-03141-0",
        ),
        EncoderEntry(
            name="virchow2", kind="foundation", dimension=2560, architecture="vit_huge_patch14_224", mpp=0.5,
            model_args={**virchow, "reg_tokens": 4}, pooling="class_and_mean", hub="paige-ai/Virchow2",
            about="ViT-H/14, DINOv2 on 3.1 million slides at 5x to 40x", licence=_NC_ND, gate=_GATE,
            source="arXiv:2408.00738",
        ),
        EncoderEntry(
            name="h_optimus_0", kind="foundation", dimension=1536, architecture="vit_giant_patch14_reg4_dinov2",
            mpp=0.5, model_args=optimus, mean=OPTIMUS_MEAN, sd=OPTIMUS_SD, hub="bioptimus/H-optimus-0",
            filename="pytorch_model.bin", about="ViT-g/14, DINOv2 on 500,000 slides", licence="Apache-2.0", gate=_GATE,
            source="hub: bioptimus/H-optimus-0",
        ),
        EncoderEntry(
            name="h_optimus_1", kind="foundation", dimension=1536, architecture="vit_giant_patch14_reg4_dinov2",
            mpp=0.5, model_args=optimus, mean=OPTIMUS_MEAN, sd=OPTIMUS_SD, hub="bioptimus/H-optimus-1",
            about="ViT-g/14, DINOv2 on more than a million slides", licence=_NC_ND, gate=_GATE,
            source="hub: bioptimus/H-optimus-1",
        ),
        EncoderEntry(
            name="gigapath", kind="foundation", dimension=1536, architecture="vit_giant_patch14_dinov2", mpp=0.5,
            model_args=gigapath, resize_px=256, hub="prov-gigapath/prov-gigapath", filename="pytorch_model.bin",
            about="ViT-g/16, DINOv2 on 170,000 slides of Providence (the tile encoder)", licence="Apache-2.0, research",
            gate=_GATE, source="doi:10.1038/s41586-024-07441-w",
        ),
    )  # fmt: skip


REGISTRY: Mapping[str, EncoderEntry] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            *_list_descriptors(),
            *_list_embedded(),
            *_list_networks(),
            *_list_vits_of_pathology(),
            *_list_giants_of_pathology(),
        )
    }
)


def describe_entry(entry: EncoderEntry) -> dict[str, str]:
    """Return one line of the table that documents, chapters and the command line print.

    Parameters
    ----------
    entry : EncoderEntry

    Returns
    -------
    dict of str
        encoder, kind, dimension, input, mpp, pooling, weights, licence, gate, about.
    """
    cut = f"{entry.resize_px} px, centre {entry.size_px}" if entry.resize_px else f"{entry.size_px} px"
    pooling = {"model": "pooled by the model", "class_and_mean": "class token + mean of image tokens"}
    nowhere = "in this repository" if entry.kind == "embedded" else "none"
    return {
        "encoder": entry.name,
        "kind": entry.kind,
        "dimension": str(entry.dimension),
        "input": cut if entry.architecture and not entry.any_size else "any",
        "mpp": "any" if entry.mpp is None else f"{entry.mpp:g}",
        "pooling": pooling[entry.pooling] if entry.architecture else "",
        "weights": entry.hub or nowhere,
        "licence": entry.licence,
        "gate": entry.gate,
        "about": entry.about,
    }
