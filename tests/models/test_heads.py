"""Last layers that nobody trained: a backbone has none, and a fresh one is said."""

import json
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from attention_transfer.models import build, open_model, save_model

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
IMAGE = torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)


def output(module: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return module.eval()(IMAGE)


@pytest.fixture(params=["ViT", "Dinov2"])
def backbone(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Weights of a network of transformers without a last layer for classes."""
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{request.param}Config")(**SIZES)
    torch.manual_seed(0)
    getattr(transformers, f"{request.param}Model")(config).save_pretrained(tmp_path / "backbone")
    return tmp_path / "backbone"


def test_a_backbone_of_transformers_has_no_classes(backbone: Path) -> None:
    opened = open_model(f"hf:{backbone}@pretrained", 2)
    again = open_model(f"hf:{backbone}@pretrained", 2)
    assert (opened.num_classes, opened.trained, opened.description.head) == (0, True, None)
    assert "no last layer: it gives features" in opened.notes[0]
    # A last layer drawn at random would differ from opening to opening.
    assert torch.equal(output(opened.module), output(again.module))


def test_a_backbone_that_starts_a_student_gets_a_last_layer_and_says_so(backbone: Path, tmp_path: Path) -> None:
    opened = open_model(f"hf:{backbone}@pretrained", 5, new_head=True)
    assert opened.num_classes == 5
    assert output(opened.module).shape == (2, 5)
    assert "its last layer is new, for 5 classes" in opened.notes[0]
    headless = open_model(f"hf:{backbone}@pretrained")
    (tmp_path / "run").mkdir()
    save_model(headless.module, tmp_path / "run", headless.name, headless.num_classes)
    assert torch.equal(output(open_model(str(tmp_path / "run")).module), output(headless.module))


def test_a_backbone_that_transformers_builds_with_a_last_layer_only_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers")
    transformers.ViTModel(transformers.ViTConfig(**SIZES)).save_pretrained(tmp_path)
    loads = transformers.AutoModelForImageClassification.from_pretrained

    def refuses(*arguments: object, config: object, **options: object) -> object:
        if not config.num_labels:  # pyright: ignore[reportAttributeAccessIssue]
            raise ValueError("a last layer of no classes")
        return loads(*arguments, config=config, **options)

    monkeypatch.setattr(transformers.AutoModelForImageClassification, "from_pretrained", refuses)
    with pytest.raises(ValueError, match="has no trained last layer"):
        open_model(f"hf:{tmp_path}@pretrained")


@pytest.fixture
def local(tmp_path: Path) -> str:
    """A published network of timm on disk, without a last layer, as those of self-supervised trainings are."""
    torch.manual_seed(0)
    network = timm.create_model("test_vit", num_classes=0, img_size=32)
    settings = {"num_classes": 0, "input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "classifier": "head"}
    config = {"architecture": "test_vit", "num_classes": 0, "model_args": {"img_size": 32}, "pretrained_cfg": settings}
    torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps(config))
    return f"timm:local-dir:{tmp_path}"


def test_a_published_network_of_timm_without_a_last_layer_has_no_classes(local: str) -> None:
    opened = open_model(f"{local}@pretrained", 64)
    assert (opened.num_classes, opened.trained, opened.description.head) == (0, True, None)
    assert "no last layer: it gives features" in opened.notes[0]
    fresh = open_model(f"{local}@pretrained", 4, new_head=True)
    assert (fresh.num_classes, output(fresh.module).shape) == (4, (2, 4))
    assert "its last layer is new" in fresh.notes[0]


@pytest.mark.parametrize("form", ["name@file", "file", "folder", "hf"])
@pytest.mark.parametrize("classes", [6, 4])
def test_a_new_last_layer_is_new_also_where_it_has_as_many_classes(form: str, classes: int, tmp_path: Path) -> None:
    if form == "hf":
        transformers = pytest.importorskip("transformers")
        config = transformers.ViTConfig(**SIZES, intermediate_size=32, num_labels=6)
        transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
        spec, head = f"hf:{tmp_path}@pretrained", "wrapped.classifier.weight"
    else:
        model, head = build("resnet8", 6), "fc.weight"
        save_model(model, tmp_path, "resnet8", 6)
        torch.save(model.state_dict(), tmp_path / "file.pt")
        file = tmp_path / "file.pt"
        spec = {"name@file": f"resnet8@{file}", "file": str(file), "folder": str(tmp_path)}[form]
    own = open_model(spec).module.get_parameter(head)
    opened = open_model(spec, classes, new_head=True)
    found = opened.module.get_parameter(head)
    assert found.shape[0] == classes
    assert "its last layer is new" in opened.notes[-1]
    assert classes != 6 or not torch.equal(found, own)


def test_a_new_network_needs_no_word_about_its_last_layer() -> None:
    assert open_model("resnet8", 4, new_head=True).notes == ()


@pytest.mark.parametrize("name", ["timm:lcnet_035", "timm:resnet18.none_in1k"])
def test_a_network_of_timm_without_published_weights_is_refused_in_words(name: str) -> None:
    with pytest.raises(ValueError, match=r"timm:.* (no published weights|weights that timm does not list)"):
        open_model(f"{name}@pretrained")
