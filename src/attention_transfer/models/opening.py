"""Trained networks: saved bare, and opened from whatever a user has (a name, a file, a run folder).

>>> opened = open_model("resnet8", num_classes=10)
>>> opened.num_classes, opened.trained
(10, False)
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from attention_transfer.errors import InputError
from attention_transfer.files.bare_student import STUDENT_CONFIG, STUDENT_WEIGHTS
from attention_transfer.models.bounds import built_within_bounds, check_side
from attention_transfer.models.build import (
    bare,
    build,
    from_transformers_config,
)
from attention_transfer.models.choosing import choose, holds_names
from attention_transfer.models.class_names import names_in, published_classes
from attention_transfer.models.distillation_token import with_token, written_plainly
from attention_transfer.models.heads import class_tensors, count_classes, forget_head, shapes
from attention_transfer.models.introspection.describe import describe
from attention_transfer.models.introspection.description import Description, Input
from attention_transfer.models.known_names import check_name, is_name
from attention_transfer.models.naming import PRETRAINED, check_length, parse_name, split_key, split_weights
from attention_transfer.models.saving import check_student_file, read_student_file
from attention_transfer.models.state_dicts import Wanted
from attention_transfer.models.weight_files import WeightsError, read_content
from attention_transfer.models.weights import fit_weights, read_weights
from attention_transfer.models.zoo.registry import MODELS

# Where people keep the names of classes beside weights.
_CLASS_NAMES = ("classes", "class_names", "class_to_idx", "idx_to_class", "id2label", "label_names")
_TOKEN_NORM = {"norm.weight", "norm.bias"}
_POOLED_NORM = {"fc_norm.weight", "fc_norm.bias"}


@dataclass(frozen=True)
class OpenedModel:
    """A network with what is known about it.

    Example:
        >>> opened = open_model("resnet8", 10)
        >>> assert isinstance(opened, OpenedModel)
        >>> opened.name, opened.num_classes, opened.trained, opened.description.head
        ('resnet8', 10, False, 'fc')

    Args:
        module: the network, in evaluation mode if trained.
        name: how `build` calls it.
        num_classes: size of its logits; 0 where its weights have no last layer, as after a pre-training without labels:
            it then gives pooled features.
        input: the images it was trained on; None if unknown, as with a file of weights.
        description: what can be read from it.
        trained: whether its weights come from somewhere.
        image_size: side in pixels that it was built for; None where it takes any, or its library's own.
        notes: what was left out of the weights or added to them, for the user to read.
        classes: names of its classes, in the order of its logits; None if unknown.
    """

    module: nn.Module
    name: str
    num_classes: int
    input: Input | None
    description: Description
    trained: bool
    image_size: int | None = None
    notes: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None


def open_model(
    spec: str,
    num_classes: int | None = None,
    image_size: int | None = None,
    *,
    new_head: bool = False,
    allow_download: bool = False,
) -> OpenedModel:
    """A network from a user's words.

    Args:
        spec: one of

            * `NAME`: a new network, as `build` makes it;
            * `NAME@FILE`: with the weights of a file; a network of timm may lack its last layer there. `FILE#KEY` says
              which of several state dicts, or which prefix of its names;
            * `NAME@pretrained`: with the weights that its library publishes;
            * a run folder: the student trained there;
            * a weights file: of the one network of ours that it fits.

            A name wins over a file or folder called the same; `./NAME` is the latter.
        num_classes: size of a new last layer. Networks with weights keep the size that their weights have.
        image_size: side in pixels; only for networks whose weights depend on it; a run folder knows its own.
        new_head: give a network with weights a fresh last layer of `num_classes`, to go on training from them.
        allow_download: fetch what a run folder asks for; what `spec` itself names is fetched as it says.

    Raises:
        ValueError: if nothing is found under that name or path, or the weights do not fit.
    """
    if new_head and num_classes is None:
        raise InputError("a new last layer needs num_classes")
    if new_head:
        opened = _open(spec, num_classes, num_classes, image_size, allow_download)
        opened = replace(opened, classes=None)
        return _with_note(opened, f"its last layer is new, for {num_classes} classes") if opened.trained else opened
    return _open(spec, num_classes, None, image_size, allow_download)


def _with_note(opened: OpenedModel, note: str) -> OpenedModel:
    return replace(opened, notes=(*opened.notes, f"{opened.name}: {note}"))


def _open(
    spec: str, num_classes: int | None, classes: int | None, image_size: int | None, allow_download: bool
) -> OpenedModel:
    """A network from a user's words, with a fresh last layer if its weights are to have one of `classes`."""
    # Nothing at all would be the folder that the user is in.
    check_length(spec)
    check_side(image_size)
    name_given = is_name(spec)
    path, key = (Path(spec), None) if name_given else split_key(spec)
    of_run = path.name == STUDENT_WEIGHTS and (path.parent / STUDENT_CONFIG).is_file()
    if not name_given and (path.is_dir() or (path.is_file() and of_run)):
        if key is not None:
            raise InputError(f"{path} holds the weights of one student: leave out #{key}")
        return _open_folder(path if path.is_dir() else path.parent, classes, allow_download)
    if not name_given and path.is_file():
        return _open_file(path, key, classes)
    name, source = split_weights(spec)
    if source is not None:
        check_name(name)
    if source == PRETRAINED:
        try:
            module = build(name, classes, image_size=image_size, pretrained=True)
        except OSError as error:
            raise InputError(
                f"the published weights of {name} cannot be fetched: {str(error).strip().splitlines()[0]} "
                f"Without a network, give {name}@FILE"
            ) from error
        if classes is not None:
            forget_head(module, name, classes, image_size)
        else:
            classes = count_classes(module, image_size)
        # What a library publishes, it also describes.
        expects = describe(module).input
        opened = _opened(module, written_plainly(name, image_size), classes, image_size, trained=True, expects=expects)
        opened = replace(opened, classes=published_classes(module, opened.name, classes))
        return opened if classes else _with_note(opened, "its published weights have no last layer: it gives features")
    if source is not None:
        file, key = split_key(source)
        return _open_named(name, file, read_content(file), key, classes, image_size)
    check_spec(spec)
    if num_classes is None:
        published = "" if name in MODELS else f" or {spec}@{PRETRAINED}"
        raise InputError(f"{spec!r} is a new network: give num_classes, or weights as {spec}@FILE{published}")
    name = written_plainly(name, image_size)
    return _opened(build(name, num_classes, image_size=image_size), name, num_classes, image_size, trained=False)


def check_spec(spec: str) -> None:
    """Refuse a user's words for a network that nothing can be found under, before anything is loaded or built.

    Example:
        >>> check_spec("resnet20")
        >>> check_spec("resnet20@missing.safetensors")
        Traceback (most recent call last):
            ...
        attention_transfer.errors.InputError: there is no file of weights missing.safetensors, which ...

    Raises:
        ValueError: for a name, file or folder that does not exist.
    """
    check_length(spec)
    if not is_name(spec) and split_key(spec)[0].exists():
        return
    name, source = split_weights(spec)
    if source is None and not is_name(name) and ("/" in spec or Path(spec).suffix):
        raise InputError(f"{spec!r} is neither a model's name nor an existing file or folder")
    check_name(name)
    if source not in (None, PRETRAINED) and not split_key(source)[0].exists():
        raise InputError(f"there is no file of weights {source}, which {spec!r} names")


def _opened(
    module: nn.Module,
    name: str,
    num_classes: int,
    image_size: int | None,
    *,
    trained: bool,
    expects: Input | None = None,
    notes: tuple[str, ...] = (),
) -> OpenedModel:
    if trained:
        module.eval()
    description = describe(module)
    return OpenedModel(module, name, num_classes, expects, description, trained, image_size, notes)


def _open_folder(folder: Path, new_classes: int | None, allow_download: bool) -> OpenedModel:
    student = read_student_file(folder)
    check_student_file(student, allow_download=allow_download)
    name, image_size, stored = student.name, student.image_size, student.transformers_config

    def make(classes: int) -> nn.Module:
        if stored is not None:
            make_stored = partial(from_transformers_config, stored, classes, image_size, str(student.path))
            return built_within_bounds(str(student.path), (classes, image_size, dict(stored)), make_stored)
        return build(name, classes, image_size=image_size)

    classes = new_classes or student.num_classes
    weights = read_weights(folder / STUDENT_WEIGHTS)
    _refuse_more_classes_than_numbers(classes if new_classes is None else 0, weights, student.path)
    module = make(classes)
    leave_out = class_tensors(make) if new_classes else {}
    fit_weights(module, weights, str(folder / STUDENT_WEIGHTS), leave_out)
    opened = _opened(module, name, classes, image_size, trained=True, expects=student.input)
    return _with_classes(opened, student.classes)


def _with_classes(opened: OpenedModel, said: object) -> OpenedModel:
    """With the names of its classes: as they lie beside its weights, or else as its configuration has them."""
    names = names_in(said, opened.num_classes)
    if names is None and opened.name.startswith("hf:"):
        names = published_classes(opened.module, opened.name, opened.num_classes)
    return replace(opened, classes=names)


def _refuse_more_classes_than_numbers(classes: int, weights: Mapping[str, Tensor], file: Path) -> None:
    """Before a network of that many is built, which may take all memory that there is."""
    numbers = sum(value.numel() for value in weights.values())
    if classes > numbers:
        raise InputError(f"{file} names {classes} classes, more than its weights have numbers: it was changed by hand")


def _open_named(
    name: str, file: Path, content: Any, key: str | None, new_classes: int | None, image_size: int | None
) -> OpenedModel:
    parsed = parse_name(name)
    name = written_plainly(name, image_size)

    def make(classes: int) -> nn.Module:
        return build(name, classes, image_size=image_size)

    head = class_tensors(make)
    # Where a token is asked for, weights of a network without one are what it starts from.
    wanted = Wanted(shapes(make, 3), head, adapt=partial(with_token, of=parsed))
    chosen = choose(content, wanted, file, key)
    weights, notes = chosen.weights, chosen.notes
    sizes = {weights[key].shape[axis] for key, axis in head.items() if key in weights and weights[key].ndim > axis}
    headless = not head.keys() & weights.keys() and parsed.library == "timm"
    if len(sizes) != 1 and not headless:
        # Anything will do to say what is missing.
        fit_weights(make(next(iter(sizes), 1)), weights, chosen.source)
        raise WeightsError(
            f"{chosen.source} does not say how many classes {name} has: its last layers have {sorted(sizes)}"
        )
    classes = new_classes or (0 if headless else sizes.pop())
    module = make(classes)
    leave_out = set(head) if new_classes else set[str]()
    if headless and _norms_after_pooling(module, weights, head):
        weights = {key: value for key, value in weights.items() if key not in _TOKEN_NORM}
        leave_out |= _POOLED_NORM
        notes += (
            f"{file} norms every token (norm), {name} what is left after pooling (fc_norm): the norm of the file is "
            "left out, and that of the network starts anew",
        )
    notes += fit_weights(module, weights, chosen.source, leave_out)
    beside = file.parent / STUDENT_CONFIG
    # Other files do not say which images they were trained on, whatever their library's own weights expect.
    known = read_student_file(file.parent) if file.name == STUDENT_WEIGHTS and beside.is_file() else None
    expects = None if known is None else known.input
    opened = _opened(module, name, classes, image_size, trained=True, expects=expects, notes=notes)
    return _with_classes(opened, _class_names(content) if known is None else known.classes)


def _class_names(content: Any) -> object:
    """What a checkpoint says under one of the usual keys."""
    there = cast("Mapping[Any, Any]", content)
    return next((there[key] for key in _CLASS_NAMES if isinstance(there.get(key), (Mapping, list, tuple))), None)


def _norms_after_pooling(module: nn.Module, weights: Mapping[str, Tensor], head: Iterable[str]) -> bool:
    """Whether weights fit but for the last norm, which timm calls otherwise where it comes after the pooling."""
    ours = bare(module).state_dict().keys()
    return weights.keys() - ours == _TOKEN_NORM and ours - weights.keys() - set(head) == _POOLED_NORM


def _open_file(file: Path, key: str | None, new_classes: int | None) -> OpenedModel:
    """The network of ours whose names and shapes are those of the file."""
    content = read_content(file)
    for name, make in MODELS.items():
        tensors = shapes(make, 3)
        if not holds_names(content, tensors, file):
            continue
        head = class_tensors(make)
        chosen = choose(content, Wanted(tensors, head), file, key)
        if chosen.fits and head.keys() <= chosen.weights.keys():
            return _open_named(name, file, content, key, new_classes, None)
    raise WeightsError(
        f"{file} fits none of {', '.join(MODELS)}: write whose weights they are, as NAME@{file} (timm:NAME, "
        "torchvision:NAME and hf:NAME too)"
    )
