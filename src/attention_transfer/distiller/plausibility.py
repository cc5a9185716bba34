"""What is unusual about two networks and the methods between them: it can be meant, but most often it is not."""

from torch import Tensor, nn

from attention_transfer.distiller.network_pair import Both

# Networks that are built alike differ by a few embeddings.
_LARGER = 1.05

_NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm),
)
# Of the last norm of a residual branch the weight is often zero at first.
_BUILT = {"weight": (0.0, 1.0), "bias": (0.0,), "running_mean": (0.0,), "running_var": (1.0,)}


def unusual(both: Both) -> list[str]:
    """What is unusual about the networks and methods, seen when a distiller is built."""
    if not both.teachers:
        return []
    if not any(teacher.runs for teacher in both.teachers.values()):
        return [
            "a teacher was given, and nothing is read of it, so that nothing is learned from it: leave it out, or give "
            "methods that learn from it."
        ]
    notes = [
        f"the {teacher.role} was never trained, as far as can be told: all its normalisation layers are as they were "
        "built; load its weights before the distiller is built."
        for teacher in both.teachers.values()
        if _never_trained(teacher.model)
    ]
    student = _without_head(both.student.model, both.student.head)
    teacher = max(_without_head(each.model, each.head) for each in both.teachers.values())
    # A frozen script holds its parameters as constants.
    if student > _LARGER * teacher > 0 and not any(bound.method.smaller_teacher for bound in both.bound):
        notes.append(
            f"the student is larger than its teacher ({_millions(student)} million parameters without its last layer, "
            f"against {_millions(teacher)}): are the two exchanged?"
        )
    return notes


def _never_trained(model: nn.Module) -> bool:
    """Whether a network has normalisation layers and every one of them is as it was built.

    Of networks without any, nothing can be told.
    """
    values = [
        (name, value)
        for norm in model.modules()
        if isinstance(norm, _NORMS)
        for name, value in (*norm.named_parameters(recurse=False), *norm.named_buffers(recurse=False))
        if name in _BUILT
    ]
    return bool(values) and all(_as_built(value, _BUILT[name]) for name, value in values)


def _as_built(value: Tensor, constants: tuple[float, ...]) -> bool:
    return any(bool((value == constant).all()) for constant in constants)


def _without_head(model: nn.Module, head: str | None) -> int:
    """Number of parameters; the last layer goes with the number of classes."""
    total = sum(parameter.numel() for parameter in model.parameters())
    return total if head is None else total - sum(p.numel() for p in model.get_submodule(head).parameters())


def _millions(count: int) -> str:
    return f"{count / 1e6:.3g}"
