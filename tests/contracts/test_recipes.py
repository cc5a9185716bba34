"""Every recipe can be built, one of every kind runs in its tiny form, and so does what the README prints."""

import json
import re
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.pairs import EXAMPLE, TRAIN_LABELS, pair
from torch import nn

import attention_transfer
from attention_transfer import Distiller, FitNet, Method, MultiHeadGraph, Output
from attention_transfer.experiment import Data, Experiment, from_json, to_json
from attention_transfer.methods import METHODS, AttentionTransfer
from attention_transfer.models import MODELS, build
from attention_transfer.models.meta_networks import outline
from attention_transfer.recipes import RECIPES
from attention_transfer.runs import RunFolder
from attention_transfer.training.experiment_run import fit_experiment
from attention_transfer.training.progress import Reporter

# Settings of a formula, with nothing around it that could break; the methods' own tests are about these.
FORMULA = {"weight", "resolution", "temperature", "power", "kind", "form", "normalise", "binarise", "producer"} | {
    "score_weights",
    "distance",
    "target",
    "first_heads",
    "average",
}


def options(value: object) -> set[str]:
    """Choices by name and value, and other fields that differ from their defaults by name."""
    found = set[str]()
    for each in fields(value):  # pyright: ignore[reportArgumentType]
        default = each.default if each.default_factory is MISSING else each.default_factory()
        given = getattr(value, each.name)
        if each.name in FORMULA:
            continue
        if isinstance(given, str):
            found.add(f"{each.name}={given}")
        elif given != default:
            found.add(each.name)
    return found


def traits(experiment: Experiment) -> frozenset[str]:
    """What a recipe has that others have not: methods and their options, and options of data and training."""
    found = {f"{method.key}.{option}" for method in experiment.methods for option in options(method)}
    found |= {method.key for method in experiment.methods} or {"alone"}
    data = replace(experiment.data, name=Data().name, train_limit=None, test_limit=None, num_workers=0)
    found |= options(data) - {f"name={data.name}"}
    found |= {"without labels"} if experiment.task_weight == 0 else set()
    found |= {"snapshots"} if experiment.training.snapshot_epochs else set()
    found |= {"moving average"} if experiment.training.ema_decay else set()
    found |= {"layer decay"} if experiment.optimisation.layer_decay else set()
    return frozenset(found)


def networks(experiment: Experiment) -> list[str]:
    return [spec.partition("@")[0] for spec in (experiment.student, experiment.teacher) if spec is not None]


def one_of_each_kind() -> list[str]:
    """Few recipes that have every trait of any recipe between them; the first ones are small."""
    having = {name: traits(recipe()) for name, recipe in RECIPES.items()}
    missing, chosen = set[str]().union(*having.values()), list[str]()
    while missing:
        # What few recipes have leaves no choice; the rest comes along with it.
        rarest = min(sorted(missing), key=lambda trait: sum(trait in each for each in having.values()))
        able = [name for name in having if rarest in having[name]]
        chosen.append(max(able, key=lambda name: len(having[name] & missing)))
        missing -= having[chosen[-1]]
    return chosen


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_says_what_it_is_and_survives_json(name: str):
    experiment = RECIPES[name]()
    assert experiment.recipe == name
    assert from_json(json.loads(json.dumps(to_json(experiment)))) == experiment
    text = (RECIPES[name].__doc__ or "").splitlines()[0]
    assert 10 < len(text) <= 110
    tiny = experiment.tiny()
    assert (tiny.recipe, tiny.task_weight, tiny.seed) == (name, experiment.task_weight, experiment.seed)
    assert [method.key for method in tiny.methods] == [method.key for method in experiment.methods]


@pytest.mark.parametrize("name", sorted({spec for recipe in RECIPES.values() for spec in networks(recipe())}))
def test_every_network_of_a_recipe_can_be_built(name: str):
    network: nn.Module = outline(lambda: build(name, 10))
    assert sum(parameter.numel() for parameter in network.parameters()) > 10_000


def test_no_recipe_names_a_file_of_some_machine():
    for recipe in RECIPES.values():
        for spec in (recipe().student, recipe().teacher or ""):
            assert spec.partition("@")[2] in ("", "pretrained")
        assert recipe().data.root is None


def test_there_is_a_recipe_for_every_method_and_every_network_alone():
    assert {method.key for recipe in RECIPES.values() for method in recipe().methods} == set(METHODS)
    assert {recipe().student for recipe in RECIPES.values() if not recipe().methods} >= set(MODELS)


def test_kinds_are_told_apart_by_methods_and_options():
    plain = traits(Experiment("a", "resnet8"))
    assert plain == {"alone", "augment=auto"}
    assert traits(Experiment("a", "resnet8", data=Data(train_classes=3))) == plain | {"train_classes"}
    taught = traits(Experiment("a", "resnet8", "resnet14", (AttentionTransfer(),)))
    assert taught == {"at", "at.activation=post", "augment=auto"}
    assert traits(Experiment("a", "resnet8", "resnet14", (AttentionTransfer(stages=(0,), power=3),))) == taught | {
        "at.stages"
    }


@pytest.mark.parametrize("name", one_of_each_kind())
def test_one_recipe_of_each_kind_runs_to_its_end(name: str, tmp_path: Path):
    experiment = RECIPES[name]().tiny()
    experiment = replace(experiment, training=replace(experiment.training, device="cpu", threads=1))
    fit_experiment(experiment, tmp_path / "run", Reporter(silent=True))
    assert RunFolder(tmp_path / "run").finished


# ---------------- the loop of the README, run as it is printed, for every method

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
