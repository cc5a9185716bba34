"""Networks saved bare and opened again, from names, files and folders."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from attention_transfer.errors import InputError
from attention_transfer.experiment import Data
from attention_transfer.models import Input, WeightsError, build, open_model, save_model
from attention_transfer.models import opening as opening_module
from attention_transfer.models import saving as saving_module
from attention_transfer.runs import STUDENT_CONFIG, STUDENT_WEIGHTS

IMAGE = torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)
NORMALISATION = Input((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IMAGE)


@pytest.mark.parametrize(
    ("name", "image_size"),
    [("resnet8", 32), ("timm:resnet10t", 32), ("timm:test_vit", 32), ("torchvision:squeezenet1_1", 32)],
)
def test_a_saved_network_opens_as_it_was(name: str, image_size: int, tmp_path: Path) -> None:
    model = build(name, 4, image_size=image_size)
    save_model(model, tmp_path, name, 4, image_size, NORMALISATION, {"classes": ["a", "b", "c", "d"]})
    opened = open_model(str(tmp_path))
    assert torch.equal(logits(opened.module), logits(model))
    assert (opened.name, opened.num_classes, opened.image_size, opened.trained) == (name, 4, image_size, True)
    assert opened.input == NORMALISATION
    assert not opened.module.training
    assert json.loads((tmp_path / STUDENT_CONFIG).read_text())["classes"] == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("name", "imports"),
    [
        ("resnet8", "import attention_transfer.models"),
        ("timm:resnet10t", "import timm"),
        ("timm:test_vit", "import timm"),
        ("torchvision:squeezenet1_1", "import torchvision"),
    ],
)
def test_the_written_instructions_load_the_weights(
    name: str, imports: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(name, 4, image_size=32)
    save_model(model, tmp_path, name, 4, 32)
    monkeypatch.chdir(tmp_path)
    scope: dict[str, nn.Module] = {}
    exec(f"{imports}; import safetensors.torch; {json.loads(Path(STUDENT_CONFIG).read_text())['load']}", scope)
    assert torch.equal(logits(scope["model"]), logits(model))


def test_a_transformers_student_loads_in_plain_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.ViTConfig(**sizes, image_size=32, patch_size=8, architectures=["ViTForImageClassification"])
    config.save_pretrained(tmp_path / "config")
    name = f"hf:{tmp_path / 'config'}"
    model = build(name, 3)
    (tmp_path / "run").mkdir()
    save_model(model, tmp_path / "run", name, 3, 32)
    (tmp_path / "config" / "config.json").unlink()
    opened = open_model(str(tmp_path / "run"))
    torch.testing.assert_close(logits(opened.module), logits(model), rtol=0, atol=0)
    assert (opened.name, opened.num_classes) == (name, 3)
    monkeypatch.chdir(tmp_path / "run")
    scope: dict[str, nn.Module] = {}
    load = json.loads(Path(STUDENT_CONFIG).read_text())["load"]
    exec(f"import json, pathlib, safetensors.torch, transformers; {load}", scope)
    with torch.no_grad():
        torch.testing.assert_close(scope["model"].eval()(IMAGE).logits, logits(model), rtol=0, atol=0)


def test_published_weights_keep_their_classes_unless_a_new_head_is_asked_for(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.ViTConfig(**sizes, image_size=32, patch_size=8, num_labels=6)
    published = transformers.ViTForImageClassification(config)
    published.save_pretrained(tmp_path)
    teacher = open_model(f"hf:{tmp_path}@pretrained", 100)
    student = open_model(f"hf:{tmp_path}@pretrained", 4, new_head=True)
    assert (teacher.num_classes, teacher.trained) == (6, True)
    assert (student.num_classes, student.trained) == (4, True)
    with torch.no_grad():
        torch.testing.assert_close(logits(teacher.module), published.eval()(IMAGE).logits)
    assert logits(student.module).shape == (1, 4)


def test_classes_are_counted_by_running_a_network_without_a_linear_head(monkeypatch: pytest.MonkeyPatch) -> None:
    def published(name: str, num_classes: int | None, *, image_size: int | None, pretrained: bool) -> nn.Module:
        assert pretrained
        assert num_classes is None
        return build(name, 11, image_size=image_size)

    monkeypatch.setattr(opening_module, "build", published)
    assert open_model("torchvision:squeezenet1_1@pretrained", 2, 64).num_classes == 11


def test_shared_and_channels_last_tensors_are_saved(tmp_path: Path) -> None:
    model = build("resnet8", 2).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    block = model.get_submodule("layer1.0")
    block.get_submodule("bn2").weight = block.get_submodule("bn1").weight
    save_model(model, tmp_path, "resnet8", 2)
    opened = open_model(str(tmp_path)).module.state_dict()
    assert all(torch.equal(value, opened[key]) for key, value in model.state_dict().items())


def test_a_second_saving_replaces_the_first_and_leaves_nothing_else(tmp_path: Path) -> None:
    save_model(build("resnet8", 2), tmp_path, "resnet8", 2)
    last = build("resnet8", 2)
    save_model(last, tmp_path, "resnet8", 2)
    assert torch.equal(logits(open_model(str(tmp_path)).module), logits(last))
    assert {path.name for path in tmp_path.iterdir()} == {STUDENT_WEIGHTS, STUDENT_CONFIG}


def test_an_interrupted_saving_leaves_the_old_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build("resnet8", 2)
    save_model(first, tmp_path, "resnet8", 2)

    def torn(weights: object, file: Path, metadata: object) -> None:
        Path(file).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(saving_module.safetensors.torch, "save_file", torn)
    with pytest.raises(KeyboardInterrupt):
        save_model(build("resnet8", 2), tmp_path, "resnet8", 2)
    assert torch.equal(logits(open_model(str(tmp_path)).module), logits(first))
    assert {path.name for path in tmp_path.iterdir()} == {STUDENT_WEIGHTS, STUDENT_CONFIG}


def test_extra_must_not_hide_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_classes"):
        save_model(build("resnet8", 2), tmp_path, "resnet8", 2, extra={"num_classes": 3})
    assert not list(tmp_path.iterdir())


def test_the_weights_file_of_a_run_opens_the_run(tmp_path: Path) -> None:
    save_model(build("resnet8", 2), tmp_path, "resnet8", 2, input=NORMALISATION)
    assert open_model(str(tmp_path / STUDENT_WEIGHTS)).input == NORMALISATION


@pytest.mark.parametrize("name", ["resnet8", "resnet14", "resnet8x4", "wrn_16_2", "shufflenetv2", "mobilenetv2_half"])
def test_a_lone_file_opens_the_network_of_ours_that_it_fits(name: str, tmp_path: Path) -> None:
    model = build(name, 6)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "lone.pt")
    opened = open_model(str(tmp_path / "lone.pt"), 10)
    assert (opened.name, opened.num_classes, opened.input, opened.trained) == (name, 6, None, True)
    assert torch.equal(logits(opened.module), logits(model))


def test_a_lone_file_of_another_network_asks_for_its_name(tmp_path: Path) -> None:
    safetensors.torch.save_file({"weight": torch.zeros(2)}, tmp_path / "lone.safetensors")
    with pytest.raises(WeightsError, match=r"NAME@.*lone\.safetensors"):
        open_model(str(tmp_path / "lone.safetensors"))


@pytest.mark.parametrize(
    "name", ["resnet8", "timm:resnet10t", "torchvision:squeezenet1_1", "torchvision:regnet_y_400mf"]
)
def test_the_number_of_classes_is_read_off_the_weights(name: str, tmp_path: Path) -> None:
    model = build(name, 6)
    torch.save(model.state_dict(), tmp_path / "file.pt")
    opened = open_model(f"{name}@{tmp_path / 'file.pt'}", 100)
    assert (opened.name, opened.num_classes, opened.trained) == (name, 6, True)
    assert torch.equal(logits(opened.module), logits(model))


@pytest.mark.parametrize("form", ["name@file", "file", "folder"])
def test_a_new_head_keeps_every_other_weight(form: str, tmp_path: Path) -> None:
    model = build("resnet8", 6)
    save_model(model, tmp_path, "resnet8", 6)
    torch.save(model.state_dict(), tmp_path / "file.pt")
    specs = {"name@file": f"resnet8@{tmp_path / 'file.pt'}", "file": str(tmp_path / "file.pt"), "folder": str(tmp_path)}
    opened = open_model(specs[form], 4, new_head=True)
    ours, theirs = opened.module.state_dict(), model.state_dict()
    assert ours["fc.weight"].shape == (4, 64)
    assert opened.num_classes == 4
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs if not key.startswith("fc."))


def test_a_new_name_is_an_untrained_network() -> None:
    opened = open_model("resnet8", 5, 32)
    assert (opened.name, opened.num_classes, opened.input, opened.trained) == ("resnet8", 5, None, False)
    assert opened.module.training
    assert len(opened.description.stages) == 3


def test_a_name_wins_over_a_folder_called_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("resnet8").mkdir()
    save_model(build("resnet14", 2), Path("resnet8"), "resnet14", 2)
    assert open_model("resnet8", 2).name == "resnet8"
    assert open_model("./resnet8").name == "resnet14"


def test_counting_classes_leaves_the_random_generator_alone(tmp_path: Path) -> None:
    torch.save(build("resnet8", 2).state_dict(), tmp_path / "file.pt")
    torch.manual_seed(0)
    open_model(f"resnet8@{tmp_path / 'file.pt'}")
    after = torch.rand(1)
    torch.manual_seed(0)
    build("resnet8", 2)
    assert torch.equal(after, torch.rand(1))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("resnet8", "give num_classes, or weights as resnet8@FILE"),
        ("timm:resnet18", "timm:resnet18@pretrained"),
        ("resnet8@pretrained", "no published weights"),
        ("resnet8@gone.pt", "no weights file at gone.pt"),
        ("@", "nothing stands before the @ of '@'"),
        ("@gone.pt", "nothing stands before the @"),
        ("@pretrained", "nothing stands before the @"),
        ("resnet8@", "nothing stands behind the @ of 'resnet8@'"),
        ("timm:resnet10t@ ", "nothing stands behind the @"),
        ("", "the name of a model is empty"),
        (" ", "the name of a model is empty"),
        pytest.param("x" * 20_000, "the name of a model is 20,000 letters long", id="longer"),
        pytest.param("x" * 300, "x…' cannot be looked up: ", id="long"),
        pytest.param(f"hf:{'x' * 300}", "x…' cannot be looked up: ", id="long of hf"),
        ("~nobody-of-that-name/run", "begins with a home folder that does not exist"),
        ("~nobody-of-that-name", "begins with a home folder that does not exist"),
        ("resnet8@~nobody-of-that-name/w.pt", "begins with a home folder that does not exist"),
        ("resnet8@a\0b", r"a\\x00b' cannot be looked up: no file can be called that"),
        ("#", "nothing stands before the # of '#'"),
        ("#key", "nothing stands before the # of '#key'"),
        ("resnet8@#key", "nothing stands before the # of '#key'"),
        ("hf:", "nothing stands behind the colon of 'hf:'"),
        ("timm:", "nothing stands behind the colon of 'timm:'"),
        pytest.param(f"timm:{'x' * 5000}", "unknown model 'timm:x{195}…'", id="long of timm"),
        pytest.param("timm:vit_tiny_patch16_224" + "(" * 3000, r"the arguments of .*\(…' cannot be read", id="open"),
        ("resnet9", "unknown model 'resnet9'"),
        ("resnet9@gone.pt", "unknown model 'resnet9'"),
        ("runs/gone", "neither a model's name nor an existing file or folder"),
        ("gone.safetensors", "neither a model's name nor an existing file or folder"),
    ],
)
def test_what_cannot_be_opened_is_explained(spec: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        open_model(spec)


def test_a_folder_without_a_student_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"holds no {STUDENT_CONFIG}"):
        open_model(str(tmp_path))
    (tmp_path / STUDENT_CONFIG).write_text("{}")
    with pytest.raises(ValueError, match=r"'model' of .*student.json must be a text, and is missing"):
        open_model(str(tmp_path))


def test_a_run_with_the_weights_of_another_network_is_refused(tmp_path: Path) -> None:
    save_model(build("resnet14", 2), tmp_path, "resnet8", 2)
    with pytest.raises(WeightsError, match=r"does not fit ResNet:\n.*unexpected: layer1\.1"):
        open_model(str(tmp_path))


def test_a_new_head_needs_its_number_of_classes() -> None:
    with pytest.raises(ValueError, match="num_classes"):
        open_model("resnet8", new_head=True)


@pytest.mark.parametrize("side", [0, -5, 16_385, 10**30, 1e30, 32.5, float("nan"), float("inf"), "32", True, [32, 32]])
def test_a_side_that_no_image_has_is_refused(side: Any) -> None:
    for name in ("resnet8", "timm:vit_tiny_patch16_224", "torchvision:vit_b_16"):
        with pytest.raises(InputError, match=r"image_size must be a whole number of pixels from 1 to 16,384, not ."):
            open_model(name, 3, side)
    with pytest.raises(InputError, match="image_size must be a whole number"):
        build("resnet8", 3, image_size=side)
    with pytest.raises(InputError, match="image_size must be a whole number of pixels from 8 to 16,384"):
        Data("cluttered-digits", image_size=side)


def test_a_folder_that_is_called_like_no_name_still_opens(tmp_path: Path) -> None:
    (tmp_path / "run@").mkdir()
    save_model(build("resnet8", 2), tmp_path / "run@", "resnet8", 2)
    assert open_model(str(tmp_path / "run@")).name == "resnet8"
