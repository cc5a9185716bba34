"""Networks by name: ours, `timm:NAME`, `torchvision:NAME` and `hf:NAME`.

>>> type(build("resnet8", 10)).__name__
'ResNet'
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn

from attention_transfer.errors import InputError, first_line, needing
from attention_transfer.models.bounds import built_within_bounds, check_classes, check_side
from attention_transfer.models.distillation_token import asks_for_token, plain_name, with_token, without_argument
from attention_transfer.models.introspection.describe import describe
from attention_transfer.models.introspection.description import Input
from attention_transfer.models.known_names import check_name
from attention_transfer.models.meta_networks import outline
from attention_transfer.models.naming import Name, parse_name, quoted
from attention_transfer.models.preprocessing import preprocessing
from attention_transfer.models.refusals import refused, unsafe, was_unpickled
from attention_transfer.models.timm_source import (
    WEIGHTS_ELSEWHERE,
    unpickled_safely,
    weights_in_folder,
    without_source,
)
from attention_transfer.models.transformers_config import check_configuration, check_hf_arguments, configuration
from attention_transfer.models.zoo.registry import MODELS

IMAGENET_CLASSES = 1000
# Their auxiliary heads turn the logits of training into a tuple.
_AUXILIARY_HEADS = ("googlenet", "inception_v3")
# How constructors of these libraries refuse arguments.
_REFUSALS = (
    TypeError,
    ValueError,
    AssertionError,
    RuntimeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    NameError,
)
_ADAPTER = "adapter_config.json"
# What timm says of names and tags for which it has no weights.
_NO_WEIGHTS = ("No pretrained weights", "Invalid pretrained")


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
        """Logits."""
        return self.wrapped(pixel_values=image).logits


def bare(model: nn.Module) -> nn.Module:
    """The network as its own library knows it, without the thin wrapper that `hf:` models have here.

    >>> inside = nn.Linear(2, 2)
    >>> bare(TransformersClassifier(inside)) is inside, bare(inside) is inside
    (True, True)
    """
    return model.wrapped if isinstance(model, TransformersClassifier) else model


def build(name: str, num_classes: int | None, *, image_size: int | None = None, pretrained: bool = False) -> nn.Module:
    """A network by name, its weights drawn from the global generator unless pretrained.

    Args:
        name: one of `MODELS`; `timm:NAME`; `torchvision:NAME`; or `hf:NAME`, a folder or a name on the hub. The latter
            three may be followed by arguments for what their library calls, as in
            `timm:vit_tiny_patch16_224(img_size=32, patch_size=4)`; for `hf`, they change the model's configuration. One
            is ours: `distillation_token=True` gives a vision transformer of timm with a class token a second one.
        num_classes: size of the last layer; None keeps a pretrained network's own. Another size than a pretrained
            network's own gives it a fresh last layer. 0 leaves the last layer out (timm only).
        image_size: side of the images in pixels, for networks whose weights depend on it; others ignore it.
        pretrained: load the weights that its library publishes (needs the network once).

    Raises:
        ValueError: for an unknown name (with the closest ones), arguments that its library refuses (in its
            words), a missing library, or an unfit size.
    """
    check_side(image_size)
    check_name(name)
    parsed = parse_name(name)
    if num_classes is None and not pretrained:
        raise InputError(f"a new {name!r} needs its number of classes: give num_classes")
    if num_classes is not None:
        check_classes(num_classes, 0 if parsed.library == "timm" else 1)
    sizes = () if pretrained else (num_classes, image_size, dict(parsed.arguments))
    if parsed.library:
        make = partial(_LIBRARIES[parsed.library], parsed, num_classes, image_size, pretrained)
        return built_within_bounds(quoted(name), sizes, make)
    if pretrained or num_classes is None:
        raise InputError(f"{name!r} has no published weights: write {name}@FILE with a weights file")
    return built_within_bounds(quoted(name), sizes, partial(MODELS[name], num_classes))


def takes_image_size(name: Name, image_size: int) -> bool:
    """Whether a network of timm is built for one size of images."""
    with needing(f"timm:{name.inner}", "timm"):
        import timm

    if "img_size" in name.arguments:
        return True
    options: dict[str, Any] = {**name.arguments, "img_size": image_size}
    try:
        outline(lambda: timm.create_model(name.inner, **options))
    except TypeError:
        return False
    return True


def _build_timm(name: Name, num_classes: int | None, image_size: int | None, pretrained: bool) -> nn.Module:
    # Refused here if its description asks for more than the shape of a network.
    listed = without_source(name)
    overlay = WEIGHTS_ELSEWHERE.get(name.inner)
    plain = plain_name(name if overlay is None else listed, image_size)
    if asks_for_token(name):
        bare_name = without_argument(name)
        if pretrained:
            published = _build_timm(bare_name, num_classes, image_size, pretrained)
            model = _build_timm(name, cast(Any, published).num_classes, image_size, pretrained=False)
            model.load_state_dict(with_token(published.state_dict(), of=name))
            return model
        if asks_for_token(plain):
            from attention_transfer.models.two_token_transformer import DistilledVisionTransformer

            network = _build_timm(bare_name, num_classes, image_size, pretrained)
            return DistilledVisionTransformer.of(cast(Any, network))
    name = plain
    options: dict[str, Any] = dict(name.arguments) | ({} if num_classes is None else {"num_classes": num_classes})
    options |= {} if overlay is None else {"pretrained_cfg_overlay": dict(overlay)}
    weights = weights_in_folder(name) if pretrained else None
    if weights is not None:
        options["pretrained_cfg_overlay"] = {"source": "", "state_dict": weights}
    side = _side(name, "img_size", image_size)
    if side is not None:
        try:
            model = _create(name, pretrained, options | {"img_size": side})
        except TypeError as error:
            if "img_size" in name.arguments or "img_size" not in str(error):
                raise refused(name, error) from error
        except _REFUSALS as error:
            if str(error).startswith(_NO_WEIGHTS):
                return _build_timm(name, num_classes, None, pretrained)
            more = f" with {', '.join(name.arguments)}" if name.arguments else ""
            raise InputError(
                f"timm:{name.inner} cannot be built for images of {side} pixels{more}: {first_line(error)}"
            ) from error
        else:
            # timm leaves the size of its published weights there.
            sides = tuple(cast("tuple[int, int]", side)) if isinstance(side, Sequence) else (side, side)
            cast("dict[str, Any]", model.pretrained_cfg)["input_size"] = (3, *sides)
            return model
    try:
        return _create(name, pretrained, options)
    except (*_REFUSALS, UnpicklingError, SafetensorError) as error:
        if str(error).startswith(_NO_WEIGHTS):
            raise InputError(
                f"timm:{name.inner} has no published weights: give timm:{name.inner}@FILE, or a name with one of the "
                "tags that timm.list_pretrained() shows"
            ) from error
        if isinstance(error, OSError):  # what is fetched is not there, as the hub says it
            raise
        raise refused(name, error) from error


def _create(name: Name, pretrained: bool, options: Mapping[str, Any]) -> nn.Module:
    import timm

    with unpickled_safely():
        model = timm.create_model(name.inner, pretrained=pretrained, **options)
    # The network has its own by now.
    cast("dict[str, Any]", getattr(model, "pretrained_cfg", None) or {}).pop("state_dict", None)
    return model


def _side(name: Name, key: str, image_size: int | None) -> Any:
    """The side that a network is built for: said by its arguments, or else by its images.

    Raises:
        ValueError: if they contradict each other, or are sides of no image.
    """
    said = name.arguments.get(key)
    for side in cast("Sequence[Any]", said) if isinstance(said, (list, tuple)) else [said]:
        check_side(side)
    if said is None or image_size is None or said in (image_size, (image_size, image_size), [image_size, image_size]):
        return image_size if said is None else said
    raise InputError(
        f"{name.library}:{name.inner} is written with {key}={said}, but is to be built for images of {image_size} "
        f"pixels: leave {key} out, or bring the images to its size (--image-size)"
    )


def _build_torchvision(name: Name, num_classes: int | None, image_size: int | None, pretrained: bool) -> nn.Module:
    import torchvision

    options: dict[str, Any] = {}
    if name.inner in _AUXILIARY_HEADS:
        options = {"aux_logits": False} if pretrained else {"aux_logits": False, "init_weights": True}
    options |= name.arguments
    side = _side(name, "image_size", image_size)
    if side is not None and name.inner.startswith("vit_"):
        options["image_size"] = side
    try:
        if not pretrained:
            return torchvision.models.get_model(name.inner, weights=None, num_classes=num_classes, **options)
        model = torchvision.models.get_model(name.inner, weights="DEFAULT", **options)
    except _REFUSALS as error:
        if isinstance(error, OSError):  # what is fetched is not there, as the hub says it
            raise
        raise refused(name, error) from error
    if num_classes not in (None, IMAGENET_CLASSES):
        _replace_head(model, num_classes, name.inner)
    return model


def _replace_head(model: nn.Module, num_classes: int, name: str) -> None:
    path = describe(model).head
    if path is None:
        raise InputError(
            f"torchvision:{name} has no linear head to replace: pretrained, it has {IMAGENET_CLASSES} classes only"
        )
    old = model.get_submodule(path)
    assert isinstance(old, nn.Linear)
    model.set_submodule(path, nn.Linear(old.in_features, num_classes, bias=True))


def _build_transformers(parsed: Name, num_classes: int | None, image_size: int | None, pretrained: bool) -> nn.Module:
    with needing(f"hf:{parsed.inner}", "transformers"):
        from transformers import PretrainedConfig

    name = parsed.inner
    image_size = _side(parsed, "image_size", image_size)
    try:
        values, _ = cast("tuple[dict[str, Any], Any]", PretrainedConfig.get_config_dict(name))
        if not values:
            raise InputError(f"hf:{name}: neither a folder with a config.json nor reachable on the hub")
        # Read before anything is made of it: what it asks to be loaded is refused, and never asked about.
        check_configuration(values, f"hf:{name}")
        check_hf_arguments(name, values, parsed.arguments)
        config = _read_configuration(name, parsed.arguments)
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(
            f"hf:{name}: neither a folder with a config.json nor reachable on the hub ({first_line(error)})"
        ) from error
    expected = preprocessing(name) if pretrained else None
    if not pretrained:
        return from_transformers_config(config.to_dict() | _attention(parsed), num_classes, image_size, f"hf:{name}")
    if num_classes is not None:
        config.num_labels = num_classes
    if (Path(name) / _ADAPTER).exists():
        raise InputError(f"hf:{name} holds an adapter of another network ({_ADAPTER}): give a folder of whole weights")
    model, report = _published(name, config, ignore_mismatched_sizes=True)
    wrapper = TransformersClassifier(model, expected)
    # transformers fills what does not fit with noise; only the last layer may be new.
    head = (describe(wrapper).head or "wrapped.classifier").removeprefix("wrapped.")
    mismatched = [key[0] if isinstance(key, tuple) else key for key in report["mismatched_keys"]]
    unlearned = [str(key) for key in (*report["missing_keys"], *mismatched)]
    new = [key for key in unlearned if not key.startswith(head)]
    if new:
        raise InputError(f"hf:{name}: the published weights lack {', '.join(new[:10])}")
    if mismatched and num_classes is None:
        raise InputError(
            f"hf:{name}: its config.json is of {config.num_labels} classes, and the last layer of its weights of "
            "another number: correct id2label there"
        )
    if unlearned and num_classes is None:
        return _without_head(parsed, config, expected)
    return wrapper


def _read_configuration(name: str, arguments: Mapping[str, Any]) -> Any:
    """What a `config.json` says, changed by arguments."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=False, **arguments)
    except OSError:
        raise
    except Exception as error:  # its classes check their values each in its own way
        said = " ".join(str(error).split())[:300]
        raise InputError(f"hf:{name} is no configuration that transformers takes: {said}") from error


def _published(name: str, config: Any, **options: Any) -> tuple[Any, Any]:
    """A network of transformers with the weights of a hub or a folder, and what was not found of them.

    Raises:
        InputError: the weights or the configuration are damaged, or hold what could run code.
        OSError: they are not there.
    """
    from transformers import AutoModelForImageClassification

    try:
        return AutoModelForImageClassification.from_pretrained(
            name, config=config, output_loading_info=True, trust_remote_code=False, **options
        )
    except Exception as error:  # whatever falls over a setting or a file of anybody's
        if was_unpickled(error):
            raise unsafe(f"hf:{name}") from error
        if isinstance(error, OSError):
            raise
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise InputError(
            f"hf:{name} is no image classifier that transformers opens: {kind}{first_line(error)}"
        ) from error


def _attention(parsed: Name) -> dict[str, Any]:
    """How attention is computed, where the name says so; configurations do not carry it."""
    return {key: value for key, value in parsed.arguments.items() if key == "attn_implementation"}


def _without_head(parsed: Name, config: Any, expected: Input | None) -> TransformersClassifier:
    """The backbone that published weights are of, where they have no last layer for classes.

    Raises:
        InputError: if transformers builds such a network with a last layer only.
    """
    config.num_labels = 0
    try:
        model, report = _published(parsed.inner, config)
        built = not report["missing_keys"]
    except InputError:
        model, built = None, False
    if model is None or not built:
        raise InputError(
            f"hf:{parsed.inner} has no trained last layer: its weights are those of a backbone, and transformers "
            "builds no classifier of this kind without one. Take weights of an image classifier"
        )
    return TransformersClassifier(model, expected)


def from_transformers_config(
    config: Mapping[str, Any], num_classes: int | None, image_size: int | None, source: str = "the configuration"
) -> TransformersClassifier:
    """A new transformers classifier from the contents of its `config.json`.

    Args:
        config: as JSON holds it; anybody's.
        num_classes: size of the last layer; None keeps the configuration's.
        image_size: side of the images in pixels, where the network is built for one.
        source: where the configuration is from, for messages.

    Raises:
        ValueError: if transformers is missing, has no image classifier of this kind, or would load something.
    """
    with needing(f"a network of transformers, of {source},", "transformers"):
        from transformers import AutoModelForImageClassification

    resolved = configuration(config, source)
    if num_classes is not None:
        resolved.num_labels = num_classes
    if image_size is not None and isinstance(getattr(resolved, "image_size", None), int):
        resolved.image_size = image_size
    kind = str(config.get("model_type"))
    try:
        return TransformersClassifier(AutoModelForImageClassification.from_config(resolved, trust_remote_code=False))
    except (*_REFUSALS, ImportError) as error:
        raise InputError(
            f"transformers has no image classifier of type {kind!r}, as {source} describes it ({first_line(error)})"
        ) from error


_LIBRARIES: dict[str, Callable[[Name, int | None, int | None, bool], nn.Module]] = {
    "timm": _build_timm,
    "torchvision": _build_torchvision,
    "hf": _build_transformers,
}
