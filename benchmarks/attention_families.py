"""Which networks' attention can be read and replaced, unchanged: the table of docs/attention-families.md.

Builds each network with random weights, finds its attention layers, and proves them: every layer is read, gradients
reach query and key, and a network whose layers are all answered with what they asked themselves gives the same logits.

    python benchmarks/attention_families.py > docs/attention-families.md
"""

import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import timm
import torch
import torchvision
import transformers
from torch import Tensor, nn

from attention_transfer.capture import Attention, Capture, CaptureError, noise
from attention_transfer.models import Description, TransformersClassifier, attention_layers, describe, with_attention

TIMM = {
    "ViT, AugReg": "vit_tiny_patch16_224",
    "MAE": "vit_base_patch16_224.mae",
    "DeiT": "deit_tiny_patch16_224",
    "DeiT, distilled": "deit_tiny_distilled_patch16_224",
    "DeiT III": "deit3_small_patch16_224",
    "DINO": "vit_small_patch16_224.dino",
    "DINOv2": "vit_small_patch14_dinov2",
    "DINOv2 with registers": "vit_small_patch14_reg4_dinov2",
    "DINOv3": "vit_small_patch16_dinov3",
    "EVA-02": "eva02_tiny_patch14_224",
    "BEiT": "beit_base_patch16_224",
    "BEiT v2": "beitv2_base_patch16_224",
    "CLIP": "vit_base_patch32_clip_224",
    "SigLIP": "vit_base_patch16_siglip_224",
    "AIMv2": "aimv2_large_patch14_224",
    "FlexiViT": "flexivit_small",
    "hybrid ViT": "vit_tiny_r_s16_p8_224",
    "PiT": "pit_ti_224",
    "PiT, distilled": "pit_ti_distilled_224",
    "CaiT": "cait_xxs24_224",
    "ConViT": "convit_tiny",
    "LeViT": "levit_128s",
    "Swin": "swin_tiny_patch4_window7_224",
    "Swin v2": "swinv2_tiny_window8_256",
    "Twins-SVT": "twins_svt_small",
    "MaxViT": "maxvit_pico_rw_256",
    "CoAtNet": "coatnet_nano_rw_224",
    "NesT": "nest_tiny",
    "GCViT": "gcvit_xxtiny",
    "MobileViT": "mobilevit_xs",
    "TNT": "tnt_s_patch16_224",
    "VOLO": "volo_d1_224",
    "Hiera": "hiera_tiny_224",
    "MViT v2": "mvitv2_tiny",
    "PVT v2": "pvt_v2_b0",
    "XCiT": "xcit_nano_12_p16_224",
    "DaViT": "davit_tiny",
}


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    family: str
    name: str
    blocks: int
    read: str
    prefix: str
    missing: str

    def __str__(self) -> str:
        cells = (self.family, f"`{self.name}`", str(self.blocks), self.read, self.prefix, self.missing)
        return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Try every family and print the table."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    print(_INTRODUCTION)
    for family, name in TIMM.items():
        print(examine(family, name, timm.create_model(name), _side(name)), flush=True)
    for family, build in _OTHERS.items():
        name, model, side = build()
        print(examine(family, name, model, side), flush=True)
    print(_NOTES)


def examine(family: str, name: str, model: nn.Module, side: int) -> Row:
    """Find a network's attention layers and prove them."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        # Layer scales of 1e-6 would hide every difference.
        if parameter.ndim == 1 and float(parameter.detach().abs().max()) < 1e-3:
            nn.init.normal_(parameter, std=0.1)
    model.eval()
    image = torch.empty(2, 3, side, side)
    try:
        description = with_attention(describe(model), model, image, "student")
    except CaptureError as error:
        return Row(family, name, 0, "–", "–", str(error).partition(":")[0])
    kinds = Counter(tap.site for tap in description.attention)
    words = {"attention": "fused call", "softmax": "its softmax", "map": "its map"}
    read = ", ".join(f"{count} by {words[site]}" for site, count in kinds.items()) or "none"
    prefix = ", ".join(map(str, sorted({tap.prefix_tokens for tap in description.attention}))) or "–"
    return Row(family, name, _blocks(description), read, prefix, "; ".join(_missing(model, description, image)) or "–")


def _blocks(description: Description) -> int:
    return len(description.attention) + len(description.attention_unread)


def _missing(model: nn.Module, description: Description, image: Tensor) -> list[str]:
    """What cannot be had of a network."""
    found: list[str] = []
    if description.attention_unread:
        found.append(f"{len(description.attention_unread)} blocks, such as `{description.attention_unread[0]}`")
    if description.attention_elsewhere:
        places = description.attention_elsewhere
        found.append(f"{len(places)} apart, such as `{places[0].module}`")
    try:
        taps = attention_layers(description, "student")
    except ValueError:
        return ["**refused**", *found]
    capture = Capture(model, taps, "student")
    logits = capture.probe(noise(image), gradient=True).logits
    again = capture.run(noise(image), replaced=dict.fromkeys(taps, _itself)).logits
    assert logits is not None
    assert again is not None
    if not torch.allclose(logits, again, rtol=1e-3, atol=1e-3 * float(logits.detach().abs().max())):
        found.append("**replacing changes what it should not**")
    return found


def _itself(own: Attention) -> Attention:
    return own


def _side(name: str) -> int:
    return int(timm.get_pretrained_cfg(name).input_size[-1])  # pyright: ignore[reportOptionalMemberAccess]


def _torchvision(name: str) -> Callable[[], tuple[str, nn.Module, int]]:
    return lambda: (name, torchvision.models.get_model(name, weights=None), 224)


def _transformers(config: str, network: str) -> Callable[[], tuple[str, nn.Module, int]]:
    sizes = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 96}

    def build() -> tuple[str, nn.Module, int]:
        made = getattr(transformers, config)(image_size=64, patch_size=16, **sizes)
        return network, TransformersClassifier(getattr(transformers, network)(made)), 64

    return build


_OTHERS: dict[str, Callable[[], tuple[str, nn.Module, int]]] = {
    "torchvision ViT": _torchvision("vit_b_32"),
    "torchvision Swin": _torchvision("swin_t"),
    "transformers ViT": _transformers("ViTConfig", "ViTForImageClassification"),
    "transformers DeiT": _transformers("DeiTConfig", "DeiTForImageClassification"),
    "transformers BEiT": _transformers("BeitConfig", "BeitForImageClassification"),
    "transformers DINOv2": _transformers("Dinov2Config", "Dinov2ForImageClassification"),
    "transformers DINOv2 with registers": _transformers(
        "Dinov2WithRegistersConfig", "Dinov2WithRegistersForImageClassification"
    ),
}

_INTRODUCTION = f"""# Transformers whose attention can be read

Written by `benchmarks/attention_families.py` (torch {torch.__version__.partition("+")[0]}, timm {timm.__version__},
torchvision {torchvision.__version__.partition("+")[0]}, transformers {transformers.__version__}): every network is
built with random weights and left as it is. All layers that are listed as read were read in one run; gradients reach
them, and the network gives the same logits when each is answered with its own query, key and value. Attention
copy, attention distillation and attention links read them so.

| family | network | blocks | attention layers read | prefix tokens | missing |
| --- | --- | ---: | --- | ---: | --- |"""

_NOTES = """
- *Fused call*: query, key, value, scale and bias of torch's `scaled_dot_product_attention`, exactly as it is called
  (after norms and rotary embeddings). Every method works, without ever building a map.
- *Its softmax, its map*: the network writes attention out by hand. The result of its only softmax is read, or the map
  where it enters the dropout that follows. Methods that need query or key refuse; those of maps work, explicitly.
- *Blocks, such as …*: hold attention of another kind: over channels, over pooled keys, or over five dimensions. A
  network with such blocks is refused, unless the user names the layers that are wanted (`student_modules`,
  `teacher_modules`).
- *Apart*: attention pooling, and class attention of one query. They count as no layer; naming them works too.
- Prefix tokens stand before the patches: class, distillation and register tokens. Windows hold none.
- A network of your own needs nothing if it calls torch's fused attention. Otherwise give each layer a module that takes
  the map, such as the `nn.Dropout` called `attn_drop` that timm's networks have; it is found by itself where the rows
  of what it takes sum to 1. For transformers, `attn_implementation="sdpa"` (the default) is read
  with query and key, `"eager"` as a map.
"""

if __name__ == "__main__":
    main()
