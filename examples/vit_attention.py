"""The attention of a vision transformer: read from the unchanged network, drawn, and handed to another one.

    python examples/vit_attention.py attention.png

Every layer's queries, keys and values are intercepted on the fused path, so maps are made of exactly what the network
computes with. Weights are random here; a name of timm with pretrained=True in their place shows more.
"""

import sys
from pathlib import Path

import timm
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from attention_transfer import AttentionDistillation, Distiller, describe
from attention_transfer.capture import Capture
from attention_transfer.models.introspection.attention_layers import with_attention


def vision_transformer(width: int, seed: int) -> nn.Module:
    """A small ViT with a class token, whose attention is less even than fresh weights make it."""
    torch.manual_seed(seed)
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=4, embed_dim=width, depth=4, num_heads=4, num_classes=10
    )
    for name, parameter in model.named_parameters():
        if name.endswith("qkv.weight"):
            nn.init.normal_(parameter, std=0.2)
    return model


def train_a_little(model: nn.Module, images: Tensor) -> None:
    """A step that stands for a training: a teacher that was never trained would be warned of."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.nn.functional.cross_entropy(model(images), torch.arange(len(images))).backward()
    optimizer.step()


@torch.no_grad()
def attention_maps(model: nn.Module, images: Tensor) -> list[Tensor]:
    """How much each token takes from each other one, a tensor (images, heads, queries, keys) for each layer.

    Args:
        model: any transformer whose attention can be read; it is left as it was.
        images: as it expects them.
    """
    layers = with_attention(describe(model), model, images, "network").attention
    capture = Capture(model.eval(), layers, "network")
    try:
        reading = capture.run(images)
    finally:
        capture.close()
    return [reading.attention[layer].map() for layer in layers]


def entropies(maps: list[Tensor]) -> list[float]:
    """How spread out each layer's attention is, in nats: 0 looks at one token, log N at all of them alike."""
    return [torch.special.entr(layer).sum(-1).mean().item() for layer in maps]


def draw(maps: list[Tensor], file: Path) -> None:
    """What the class token takes from each patch of the first image: a row per layer, a column per head."""
    figure = Figure(figsize=(2 * maps[0].shape[1], 2 * len(maps)), layout="constrained")
    axes = figure.subplots(len(maps), maps[0].shape[1])
    for depth, layer in enumerate(maps):
        for head, patches in enumerate(layer[0, :, 0, 1:]):
            side = round(len(patches) ** 0.5)
            axes[depth, head].imshow(patches.reshape(side, side).numpy())
            axes[depth, head].set_axis_off()
            axes[depth, head].set_title(f"layer {depth}, head {head}", fontsize=8)
    figure.savefig(file, dpi=80)


def main(file: Path | None = None, steps: int = 30) -> tuple[list[float], list[float]]:
    """Read and draw a teacher's attention, then let a narrower student learn it.

    Returns:
        The term of each step, and the entropy of each layer of the teacher.
    """
    images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    teacher, student = vision_transformer(64, seed=1), vision_transformer(32, seed=2)
    train_a_little(teacher, images)
    maps = attention_maps(teacher, images)
    spread = entropies(maps)
    for depth, (layer, entropy) in enumerate(zip(maps, spread, strict=True)):
        print(f"layer {depth}: maps {tuple(layer.shape)}, entropy {entropy:.3f} nats")
    if file is not None:
        draw(maps, file)
        print(f"drawn into {file}")

    distiller = Distiller(student, teacher, [AttentionDistillation()], task_weight=0, example=images)
    optimizer = torch.optim.AdamW(distiller.trainable_parameters(), lr=3e-3)
    terms: list[float] = []
    for step in range(steps):
        out = distiller(images)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        terms.append(out.loss.item())
        if step % 10 == 0 or step == steps - 1:
            print(f"step {step:>2}: cross-entropy between the maps {terms[-1]:.4f}")
    return terms, spread


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
