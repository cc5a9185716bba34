"""What a process finds that has torch, numpy, jaxtyping and safetensors alone; run as a script, it writes JSON.

The packages of the extras are there for the tests; here they cannot be found, and who asks for them is written down.
"""

import contextlib
import io
import json
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

OTHERS = (
    *("timm", "torchvision", "PIL", "tyro", "rich", "matplotlib", "sklearn", "scipy"),
    *("transformers", "huggingface_hub"),
)
IMAGES, LABELS = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 4


class Hidden:
    """A finder of modules to which packages are not installed: nothing is found, as opposed to an error while looking.

    Who looks whether a package is there (torch's compiler does so for all it knows) must get the answer of an
    environment without it, which is None.
    """

    asked: ClassVar[list[str]] = []

    def __init__(self, finder: Any) -> None:
        self.finder = finder

    def __getattr__(self, name: str) -> Any:
        return getattr(self.finder, name)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.partition(".")[0] not in OTHERS:
            return self.finder.find_spec(name, path, target)
        if not any("_dynamo" in frame.filename for frame in traceback.extract_stack()):
            self.asked.append(name)
        return None


class Convolutions(nn.Module):
    """A network of nobody's library."""

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = [3, width, 2 * width, 4 * width]
        stages = [nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU()) for a, b in pairwise(sizes)]
        self.layer1, self.layer2, self.layer3 = stages
        self.fc = nn.Linear(4 * width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


class Tokens(nn.Module):
    """A vision transformer of torch's own layers."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 24, 8, 8)
        self.cls_token = nn.Parameter(torch.randn(1, 1, 24))
        layers = [nn.TransformerEncoderLayer(24, heads, 48, 0.0, batch_first=True) for _ in range(2)]
        self.blocks = nn.ModuleList(layers)
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).mT
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        return self.head(x[:, 0])


def learned(student: nn.Module, teacher: nn.Module, method: object) -> float:
    """The loss of a step of training, after those of the phases before it."""
    from attention_transfer import Distiller

    torch.manual_seed(0)
    with torch.no_grad():
        for module in teacher.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.num_batches_tracked += 1
        for each in teacher.parameters():
            each += 0.1 * torch.randn_like(each)
    distiller = Distiller(student, teacher, [method], example=IMAGES, train_labels=LABELS)  # pyright: ignore[reportArgumentType]
    loss = torch.zeros(())
    for epoch in range(distiller.num_epochs(1)):
        distiller.set_epoch(epoch)
        distiller.train()
        loss = distiller(IMAGES, LABELS, torch.arange(8)).loss
        loss.backward()
    distiller.summary()
    return float(loss.detach())


def refusal(action: Callable[[], object]) -> list[str]:
    """Kind and words of an error; nothing where there is none."""
    try:
        action()
    except Exception as error:
        return [type(error).__name__, str(error)]
    return []


def command(*arguments: str) -> tuple[int, str, str]:
    """Exit code, output and errors of the command line."""
    from attention_transfer.cli import main

    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = main(arguments)
    return code, out.getvalue(), err.getvalue()


def findings() -> dict[str, object]:
    import attention_transfer
    from attention_transfer import METHODS, AttentionDistillation, AttentionTransfer, SoftTargets, build, models

    assert attention_transfer.Distiller is not None
    found: dict[str, object] = {"compiler": "torch._dynamo" in sys.modules}
    of_convolutions = {
        name: METHODS[name]() for name in ("gradient", "cat", "dkd", "mhgd", "fitnet", "rkd", "sp", "pkt", "ofd")
    }
    of_convolutions |= {"at": AttentionTransfer(), "kd": SoftTargets(), "reviewkd": METHODS["reviewkd"]()}
    of_convolutions["crd"] = METHODS["crd"](num_negatives=4)
    found["convolutions"] = {
        name: learned(Convolutions(4), Convolutions(8), method) for name, method in of_convolutions.items()
    }
    of_tokens = {name: METHODS[name]() for name in ("attention-copy", "attention-distillation", "feature-distillation")}
    found["tokens"] = {name: learned(Tokens(2), Tokens(2), method) for name, method in of_tokens.items()}
    found["links"] = learned(Tokens(2), Convolutions(8), METHODS["attention-links"]())
    build("resnet8", 4)
    found["asked"] = list(Hidden.asked)

    found["heads"] = refusal(lambda: learned(Tokens(2), Tokens(4), AttentionDistillation(head_match="matched")))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "x.pt"
        torch.save({"weight": torch.zeros(1)}, place)
        names = (
            "timm:resnet18",
            "torchvision:resnet18",
            f"hf:{folder}",
            "timm:resnet18.a1_in1k",
            f"timm:local-dir:{folder}",
        )
        found["build"] = {name: refusal(lambda name=name: build(name, 4)) for name in names}
        specs = (f"timm:resnet18@{place}", "torchvision:resnet18@pretrained", f"hf:{folder}@pretrained")
        found["open"] = {spec: refusal(lambda spec=spec: models.open_model(spec, 4)) for spec in specs}
    found["lazily"] = refusal(lambda: attention_transfer.Experiment)
    found["data"] = refusal(lambda: __import__("attention_transfer.data").data.load("cifar10"))
    found["commands"] = {name: command(name) for name in ("list", "train", "compare", "--help", "--version")}
    return found


if __name__ == "__main__":
    warnings.simplefilter("error")
    sys.meta_path[:] = [Hidden(finder) for finder in sys.meta_path]
    print(json.dumps(findings()))
