"""Two small networks for any method."""

import timm
import torch
from torch import Tensor, nn

from attention_transfer import METHODS, Distiller, build
from tests.trained import as_trained

EXAMPLE = torch.empty(2, 3, 16, 16)
# Of a training set, for methods that need them.
TRAIN_LABELS = torch.arange(48) % 6


def pair(key: str, classes: int = 6) -> tuple[nn.Module, nn.Module]:
    """ResNet-8 and a deeper, wider teacher; two transformers where the method wants them, distilled ones if need be."""
    torch.manual_seed(0)
    networks = build("resnet8", classes), as_trained(build("resnet8x4", classes))
    try:
        Distiller(*networks, [METHODS[key]()], example=EXAMPLE, train_labels=TRAIN_LABELS % classes).detach()
    except ValueError as error:
        # A method that refuses networks of convolutions says what it wants.
        if "transformer" not in str(error):
            raise
        sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": classes}
        name = "deit_tiny_distilled_patch16_224" if "distilled" in str(error) else "vit_tiny_patch16_224"
        networks = timm.create_model(name, **sizes), as_trained(timm.create_model(name, **sizes))
        # Of fresh transformers all attention is almost even.
        for name, parameter in (*networks[0].named_parameters(), *networks[1].named_parameters()):
            if "qkv" in name:
                nn.init.normal_(parameter, std=0.4)
    return networks


def taught(key: str, student: nn.Module, teacher: nn.Module, dtype: torch.dtype = torch.float32) -> Distiller:
    """A student that learns by the method alone; by the labels too where it only replaces something in the student.

    Of a method with phases it is the last one, in which the student learns.
    """
    distiller = _built(key, student, teacher, EXAMPLE.to(dtype))
    distiller.set_phase(distiller.phases[-1])
    return distiller


def _built(key: str, student: nn.Module, teacher: nn.Module, example: Tensor) -> Distiller:
    try:
        return Distiller(student, teacher, [METHODS[key]()], task_weight=0, example=example, train_labels=TRAIN_LABELS)
    except ValueError as error:
        if "nothing to learn from" not in str(error):
            raise
        return Distiller(student, teacher, [METHODS[key]()], example=example, train_labels=TRAIN_LABELS)
