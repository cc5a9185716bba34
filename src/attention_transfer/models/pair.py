"""Which two networks can be teacher and student of each other.

>>> from attention_transfer import build
>>> check_pair(build("resnet8", 10), build("resnet14", 10))
"""

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from attention_transfer.errors import InputError

# Without state and the same in both modes, so that two networks may have one of them together.
_STATELESS = ("activation", "pooling", "flatten", "upsampling", "padding", "pixelshuffle")


def check_pair(student: nn.Module, teacher: nn.Module | None) -> None:
    """Refuse networks that cannot be run or trained, and pairs that would silently train the wrong thing.

    Raises:
        ValueError: in inference mode; for one network in both roles, shared parameters, statistics or modes,
            parameters without values, and tensors of inference mode in a student.
    """
    if torch.is_inference_mode_enabled():
        raise InputError(
            "a distiller cannot be built in inference mode, in which nothing can be learned: build it outside of "
            "torch.inference_mode()"
        )
    for network, role in ((student, "student"), (teacher, "teacher")):
        if network is not None:
            _check_values(network, role)
    infer = [name for name, p in student.named_parameters() if p.is_inference()]
    if infer:
        raise InputError(
            f"the student was made in inference mode, in which nothing can be learned ({infer[0]!r}): make it outside "
            "of torch.inference_mode()"
        )
    if teacher is None:
        return
    if student is teacher:
        raise InputError("student and teacher are the same object: give the student a copy (copy.deepcopy)")
    _check_apart(student, teacher)


def _check_values(network: nn.Module, role: str) -> None:
    named = [*network.named_parameters(), *network.named_buffers()]
    lazy = [name for name, tensor in named if isinstance(tensor, UninitializedParameter | UninitializedBuffer)]
    if lazy:
        raise InputError(
            f"the {role} has lazy modules that were never run ({lazy[0]!r} has no shape yet): run it once on a batch "
            "of images before it is given here"
        )
    empty = [name for name, tensor in named if tensor.is_meta]
    if empty:
        raise InputError(
            f"the {role} has no weights ({empty[0]!r} is on the meta device): load them first, "
            "load_state_dict(..., assign=True), or build it on a device"
        )


def _check_apart(student: nn.Module, teacher: nn.Module) -> None:
    """Refuse what both networks would change, or one of them in the other."""
    theirs = {_memory(p) for p in teacher.parameters()}
    both = [name for name, p in student.named_parameters() if _memory(p) in theirs]
    if both:
        raise InputError(
            f"student and teacher share parameters ({', '.join(both[:3])}): freezing one would freeze both, and what "
            "one learns would change the other; give the student a copy (copy.deepcopy)"
        )
    learned = {_memory(tensor) for module in teacher.modules() for tensor in _statistics(module)}
    for path, module in student.named_modules():
        if any(_memory(tensor) in learned for tensor in _statistics(module)):
            raise InputError(
                f"student and teacher share running statistics ({path}): what the student sees would change the "
                "teacher; give the student a copy (copy.deepcopy)"
            )
    held = set(teacher.modules())
    for path, module in student.named_modules():
        if module in held and not _stateless(module):
            raise InputError(
                f"student and teacher share the module {path!r} ({type(module).__name__}), whose mode would follow "
                "both: give each network its own (copy.deepcopy)"
            )


def _memory(tensor: Tensor) -> object:
    """By what two tensors are known to be one, or to lie in the same memory; empty ones are nobody's."""
    try:
        start = tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):
        # Tensors of other kinds (distributed, quantised) are one only if they are the same object.
        start = 0
    return (tensor.device, start) if start else id(tensor)


def _statistics(module: nn.Module) -> list[Tensor]:
    return [value for name, value in module.named_buffers(recurse=False) if name.startswith("running_")]


def _stateless(module: nn.Module) -> bool:
    room = type(module).__module__.removeprefix("torch.nn.modules.")
    return (room in _STATELESS and not isinstance(module, nn.RReLU | nn.MultiheadAttention)) or type(module) in (
        nn.Identity,
        torch.nn.Softmax,
    )
