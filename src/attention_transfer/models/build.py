"""Networks by name: ours, `timm:NAME`, `torchvision:NAME` and `hf:NAME`."""

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attention_transfer.models.description import Input
from attention_transfer.models.external import describe
from attention_transfer.models.zoo import MODELS

_IMAGENET_CLASSES = 1000
# Their auxiliary heads turn the logits of training into a tuple.
_AUXILIARY_HEADS = ("googlenet", "inception_v3")
_HF_MISSING = "models of hf: need transformers: pip install 'attention-transfer[hf]'"


class TransformersClassifier(nn.Module):
    """A transformers image classifier that gives its logits and nothing else.

    Args:
        wrapped: the model of transformers, unchanged; `bare()` gives it back.
        input: the images it expects, where its preprocessor says so.
    """

    def __init__(self, wrapped: nn.Module, input: Input | None = None) -> None:
        super().__init__()
        self.wrapped = wrapped
        self.input = input

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k"]:
        return self.wrapped(pixel_values=image).logits


def bare(model: nn.Module) -> nn.Module:
    """The network as its own library knows it, without the thin wrapper that `hf:` models have here."""
    return model.wrapped if isinstance(model, TransformersClassifier) else model


def build(name: str, num_classes: int | None, *, image_size: int | None = None, pretrained: bool = False) -> nn.Module:
    """A network by name, its weights drawn from the global generator unless pretrained.

    Args:
        name: one of `MODELS`; `timm:NAME`; `torchvision:NAME`; or `hf:NAME`, a folder or a name on the hub.
        num_classes: size of the last layer; None keeps a pretrained network's own. Another size than a pretrained
            network's own gives it a fresh last layer.
        image_size: side of the images in pixels, for networks whose weights depend on it; others ignore it.
        pretrained: load the weights that its library publishes (needs the network once).

    Raises:
        ValueError: for a name that nobody knows (with the closest ones), a missing library, or an unfit size.
    """
    check_name(name)
    library, _, inner = ("", "", name) if name in MODELS else name.partition(":")
    if num_classes is None and not pretrained:
        raise ValueError(f"a new {name!r} needs its number of classes: give num_classes")
    if num_classes is not None and num_classes < 1:
        raise ValueError(f"a classifier has at least one class, not {num_classes}")
    if library:
        return _LIBRARIES[library](inner, num_classes, image_size, pretrained)
    if pretrained or num_classes is None:
        raise ValueError(f"{name!r} has no published weights: write {name}@FILE with a weights file")
    return MODELS[name](num_classes)


def is_name(text: str) -> bool:
    """Whether a text is written as a model's name: one of ours, or with a library before a colon."""
    return text in MODELS or text.partition(":")[0] in _LIBRARIES


def check_name(name: str) -> None:
    """Refuse names that nobody knows; those on the Hugging Face hub are not looked up.

    Raises:
        ValueError: naming the closest ones that exist.
    """
    library, separator, inner = name.partition(":")
    if not separator:
        if name not in MODELS:
            more = "; models of other libraries are written timm:NAME, torchvision:NAME or hf:NAME"
            raise _unknown(name, MODELS, more)
    elif library not in _LIBRARIES:
        wanted = ", ".join(f"{known}:NAME" for known in _LIBRARIES)
        raise ValueError(f"unknown library {library!r} in {name!r}: wanted is {wanted}")
    elif library == "timm":
        import timm

        # Those are places that timm fetches from, not names in its list.
        if not inner.startswith(("hf-hub:", "hf_hub:", "local-dir:")) and not timm.is_model(inner.partition(".")[0]):
            raise _unknown(name, [f"timm:{known}" for known in timm.list_models()])
    elif library == "torchvision":
        known = _torchvision_names()
        if inner not in known:
            raise _unknown(name, [f"torchvision:{model}" for model in known])


def takes_image_size(name: str, image_size: int) -> bool:
    """Whether a network of timm is built for one size of images."""
    import timm

    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        try:
            timm.create_model(name, img_size=image_size)
        except TypeError:
            return False
    return True


def _unknown(name: str, known: Iterable[str], more: str = "") -> ValueError:
    close = difflib.get_close_matches(name, list(known), n=5, cutoff=0.5)
    return ValueError(f"unknown model {name!r}" + (f"; close to it: {', '.join(close)}" if close else "") + more)


def _build_timm(name: str, num_classes: int | None, image_size: int | None, pretrained: bool) -> nn.Module:
    import timm

    sizes: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    if image_size is None:
        return timm.create_model(name, pretrained=pretrained, **sizes)
    try:
        model = timm.create_model(name, pretrained=pretrained, img_size=image_size, **sizes)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        return timm.create_model(name, pretrained=pretrained, **sizes)
    except (AssertionError, RuntimeError) as error:
        raise ValueError(f"timm:{name} cannot be built for images of {image_size} pixels: {error}") from error
    # timm leaves the size of its published weights there.
    cast("dict[str, Any]", model.pretrained_cfg)["input_size"] = (3, image_size, image_size)
    return model


def _build_torchvision(name: str, num_classes: int | None, image_size: int | None, pretrained: bool) -> nn.Module:
    import torchvision

    options: dict[str, Any] = {}
    if name in _AUXILIARY_HEADS:
        options = {"aux_logits": False} if pretrained else {"aux_logits": False, "init_weights": True}
    if image_size is not None and name.startswith("vit_"):
        options["image_size"] = image_size
    if not pretrained:
        return torchvision.models.get_model(name, weights=None, num_classes=num_classes, **options)
    model = torchvision.models.get_model(name, weights="DEFAULT", **options)
    if num_classes not in (None, _IMAGENET_CLASSES):
        _replace_head(model, num_classes, name)
    return model


def _torchvision_names() -> list[str]:
    import torchvision

    return torchvision.models.list_models(module=torchvision.models)


def _replace_head(model: nn.Module, num_classes: int, name: str) -> None:
    path = describe(model).head
    if path is None:
        raise ValueError(
            f"torchvision:{name} has no linear head to replace: pretrained, it has {_IMAGENET_CLASSES} classes only"
        )
    old = model.get_submodule(path)
    assert isinstance(old, nn.Linear)
    model.set_submodule(path, nn.Linear(old.in_features, num_classes, bias=True))


def _build_transformers(name: str, num_classes: int | None, image_size: int | None, pretrained: bool) -> nn.Module:
    try:
        from transformers import AutoConfig, AutoModelForImageClassification
    except ImportError as error:
        raise ValueError(_HF_MISSING) from error

    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"hf:{name}: neither a folder with a config.json nor reachable on the hub ({error})"
        ) from error
    expected = _preprocessing(name) if pretrained else None
    if not pretrained:
        return from_transformers_config(config.to_dict(), num_classes, image_size)
    sizes: dict[str, Any] = {} if num_classes is None else {"num_labels": num_classes}
    model, report = AutoModelForImageClassification.from_pretrained(
        name, ignore_mismatched_sizes=True, output_loading_info=True, **sizes
    )
    wrapper = TransformersClassifier(model, expected)
    # transformers fills what does not fit with noise; only the last layer may be new.
    head = (describe(wrapper).head or "wrapped.classifier").removeprefix("wrapped.")
    mismatched = [key[0] if isinstance(key, tuple) else key for key in report["mismatched_keys"]]
    new = [key for key in (*report["missing_keys"], *mismatched) if not str(key).startswith(head)]
    if new:
        raise ValueError(f"hf:{name}: the published weights lack {', '.join(map(str, new[:10]))}")
    return wrapper


def from_transformers_config(
    config: Mapping[str, Any], num_classes: int | None, image_size: int | None
) -> TransformersClassifier:
    """A new transformers classifier from the contents of its `config.json`.

    Raises:
        ValueError: if transformers is missing, or has no image classifier of this kind.
    """
    try:
        from transformers import AutoConfig, AutoModelForImageClassification
    except ImportError as error:
        raise ValueError(_HF_MISSING) from error

    values = dict(config)
    kind = str(values.pop("model_type", ""))
    resolved = AutoConfig.for_model(kind, **values)
    if num_classes is not None:
        resolved.num_labels = num_classes
    if image_size is not None and isinstance(getattr(resolved, "image_size", None), int):
        resolved.image_size = image_size
    try:
        return TransformersClassifier(AutoModelForImageClassification.from_config(resolved))
    except ValueError as error:
        raise ValueError(f"transformers has no image classifier for a config of type {kind!r}") from error


def _preprocessing(name: str) -> Input | None:
    """What a model's preprocessor file says about mean and deviation; None where there is none."""
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        values, _ = ImageProcessingMixin.get_image_processor_dict(name)
    except OSError:
        return None
    mean, std = values.get("image_mean"), values.get("image_std")
    if values.get("do_normalize") is False or not mean or not std:
        return None
    return Input((mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))


_LIBRARIES: dict[str, Callable[[str, int | None, int | None, bool], nn.Module]] = {
    "timm": _build_timm,
    "torchvision": _build_torchvision,
    "hf": _build_transformers,
}
