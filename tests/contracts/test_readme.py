"""The loop of the README, run as it is printed, for every method."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.pairs import EXAMPLE, TRAIN_LABELS, pair

import attention_transfer
from attention_transfer import METHODS, Distiller, FitNet, Method, MultiHeadGraph, Output

README = Path(__file__).parents[2] / "README.md"
TWO_STAGES = (FitNet(hint_epochs=1), MultiHeadGraph(graph_epochs=1))
SETTINGS = [*(METHODS[key]() for key in METHODS if key != "mhgd"), *TWO_STAGES]


def printed(place: int) -> str:
    """A block of Python in the README: the loop, or the call of `fit`."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    return blocks[place]


class Loader:
    """Two batches, of images, labels and, where a method needs them, dataset indices."""

    def __init__(self, *, indexed: bool) -> None:
        self._indexed = indexed

    def __iter__(self) -> Any:
        for i in range(2):
            images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(i))
            index = torch.arange(4 * i, 4 * i + 4)
            yield (images, TRAIN_LABELS[index], *([index] if self._indexed else []))


@pytest.mark.parametrize("method", SETTINGS, ids=lambda method: method.key)
def test_the_loop_of_the_readme_trains_by_every_method(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = pair(method.key)
    built: list[Distiller] = []
    seen: list[tuple[str, Output]] = []

    def distiller(**given: Any) -> Distiller:
        """What the README says, but for its methods, and small."""
        assert set(given) == {"student", "teacher", "methods", "task_weight", "example"}
        given |= {"methods": [method], "example": EXAMPLE, "train_labels": TRAIN_LABELS}
        made = Distiller(**given)
        whole = made.num_epochs
        monkeypatch.setattr(made, "num_epochs", lambda epochs: whole(epochs) - epochs + 2)
        made.register_forward_hook(lambda module, inputs, out: seen.append((module.phase.name, out)))
        built.append(made)
        return made

    monkeypatch.setattr(attention_transfer, "Distiller", distiller)
    before = [value.detach().clone() for value in student.parameters()]
    taught = {name: value.clone() for name, value in teacher.state_dict().items()}
    names: dict[str, Any] = {"student": student, "teacher": teacher, "loader": Loader(indexed=method.key == "crd")}
    exec(compile(printed(0), str(README), "exec"), names)

    (made,) = built
    assert names["student"] is student
    assert [phase for phase, _ in seen[::2]] == [phase.name for phase in made.phases for _ in range(phase.epochs or 2)]
    assert all(torch.isfinite(out.loss) for _, out in seen)
    assert any(not torch.equal(value, start) for value, start in zip(student.parameters(), before, strict=True))
    assert all(torch.equal(value, taught[name]) for name, value in teacher.state_dict().items())
    assert not any(module._forward_hooks for network in (student, teacher) for module in network.modules())


def test_the_call_of_fit_in_the_readme_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = pair("kd")
    distiller, real, results = (
        Distiller(student, teacher, [METHODS["kd"]()], example=EXAMPLE),
        attention_transfer.fit,
        [],
    )

    def fit(*given: Any, **settings: Any) -> None:
        """What the README says, but for the length."""
        assert settings["epochs"] == 100
        results.append(real(*given, **settings | {"epochs": 2}))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(attention_transfer, "fit", fit)
    optimizer = torch.optim.SGD(distiller.trainable_parameters(), lr=0.1)
    loader = list(Loader(indexed=False))
    names = {"distiller": distiller, "loader": loader, "test_loader": loader, "optimizer": optimizer}
    exec(compile(printed(1), str(README), "exec"), names)

    (result,) = results
    assert len(result.rows) == 2
    assert (tmp_path / "runs" / "first" / "student.safetensors").is_file()
