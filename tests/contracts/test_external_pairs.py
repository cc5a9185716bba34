"""Both methods between networks of other libraries, unlike each other in depth, width, layout and resolution."""

import pytest
import torch
from tests.trained import as_trained

from attention_transfer import AttentionTransfer, Distiller, SoftTargets, build

PAIRS = [
    ("timm:resnet18", "timm:resnet26"),
    ("timm:mobilenetv3_small_050", "timm:efficientnet_lite0"),
    ("torchvision:resnet18", "timm:convnext_atto"),
    ("timm:resnet10t", "timm:swin_s3_tiny_224"),
    ("timm:deit_tiny_distilled_patch16_224", "torchvision:squeezenet1_0"),
    ("resnet8", "timm:vit_tiny_patch16_224"),
]


@pytest.mark.filterwarnings("ignore:the student is larger")
@pytest.mark.parametrize(("student", "teacher"), PAIRS)
def test_a_step_is_finite_and_teaches_the_student(student: str, teacher: str) -> None:
    torch.manual_seed(0)
    size = 224 if "224" in student + teacher else 64
    networks = [as_trained(build(name, 5)) for name in (student, teacher)]
    distiller = Distiller(
        networks[0], networks[1], [AttentionTransfer(), SoftTargets()], example=torch.empty(2, 3, size, size)
    )
    out = distiller(torch.randn(2, 3, size, size), torch.tensor([0, 3]))
    assert set(out.terms) == {"ce", "at", "kd"}
    assert out.loss.isfinite()
    out.loss.backward()
    reached = [p for p in networks[0].parameters() if p.grad is not None]
    assert reached
    assert all(p.grad.isfinite().all() for p in reached if p.grad is not None)
    assert all(p.grad is None for p in networks[1].parameters())
    distiller.detach()
    assert not any(m._forward_hooks or m._forward_pre_hooks for network in networks for m in network.modules())
