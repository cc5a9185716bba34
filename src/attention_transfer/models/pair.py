"""Which two networks can be teacher and student of each other."""

from torch import nn

from attention_transfer.capture.private_names import is_another_compiled
from attention_transfer.errors import InputError


def check_pair(student: nn.Module, teacher: nn.Module | None) -> None:
    """Refuse pairs that would silently train the wrong thing.

    Raises:
        ValueError: for one network in both roles, shared parameters, a compiled network or one wrapped for processes.
    """
    for network, role in ((student, "student"), (teacher, "teacher")):
        if network is None:
            continue
        if is_another_compiled(network):
            raise InputError(f"the {role} is compiled, and hooks on it would never fire: compile the distiller instead")
        if isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel):
            raise InputError(f"the {role} is wrapped for several processes: wrap the distiller instead")
    if teacher is None:
        return
    if student is teacher:
        raise InputError("student and teacher are the same object: give the student a copy (copy.deepcopy)")
    shared = {id(p) for p in teacher.parameters()}
    both = [name for name, p in student.named_parameters() if id(p) in shared]
    if both:
        raise InputError(
            f"student and teacher share parameters ({', '.join(both[:3])}): freezing one would freeze both"
        )
