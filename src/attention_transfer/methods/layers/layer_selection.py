"""Which layers of a deep network take part, and which layer of the teacher each of the student's is paired with.

>>> Layers(first=6).first
6
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from attention_transfer.capture import Tap
from attention_transfer.errors import InputError
from attention_transfer.methods.method import spread
from attention_transfer.settings import Settings


@dataclass(frozen=True)
class Layers(Settings):
    """A choice of layers; all of them by default.

    Section 4.1 of Li et al. (NeurIPS 2024, arXiv:2411.09702) transfers the first or the last k layers.

    Args:
        first: only the student's first so many.
        last: only its last so many.
        student: only these of the student, by number from 0; negative ones count from the end.
        teacher: their partners in the teacher, one each; the same numbers if None.
        match: how layers find their partners where `teacher` does not say. `same` wants networks of equal depth.
            `spread` spreads the layers of the deeper network evenly over those of the other, the last of both being
            partners; each layer of a deeper student that is chosen by `first`, `last` or `student` has the partner that
            lies as deep, which may teach several.
        student_modules: modules to use as layers of the student in place of those that are found, input to output.
        teacher_modules: of the teacher.

    Raises:
        ValueError: for choices that contradict each other.
    """

    first: int | None = None
    last: int | None = None
    student: tuple[int, ...] | None = None
    teacher: tuple[int, ...] | None = None
    match: Literal["same", "spread"] = "same"
    student_modules: tuple[str, ...] | None = None
    teacher_modules: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [name for name in ("first", "last", "student") if getattr(self, name) is not None]
        if len(given) > 1:
            raise InputError(f"{' and '.join(given)} both choose layers: give one of them")
        for name in ("first", "last"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise InputError(f"{name} must be at least 1 layer, not {count}")
        if self.student is not None and (not self.student or len(set(self.student)) < len(self.student)):
            raise InputError(f"student must name layers, each once, not {self.student}")
        if self.teacher is not None and (self.student is None or len(self.teacher) != len(self.student)):
            wanted = "the layers that they teach in student" if self.student is None else f"{len(self.student)} layers"
            raise InputError(f"teacher names {len(self.teacher)} layers; give {wanted}, one for one")
        if self.teacher is not None and self.match != "same":
            raise InputError(f'teacher names the partners, so match="{self.match}" has nothing to find: leave one out')

    def pairs(self, student: Sequence[Tap], teacher: Sequence[Tap]) -> tuple[tuple[Tap, ...], tuple[Tap, ...]]:
        """The layers that take part, of student and of teacher, one for one.

        Args:
            student: all its layers, input to output.
            teacher: same as for `student`.

        Raises:
            ValueError: for a layer that does not exist, or networks of different depth that nothing matches.
        """
        if self.match == "spread" and self.first is self.last is self.student is None:
            return spread(student, teacher)
        if self.match == "same" and self.teacher is None and len(student) != len(teacher):
            raise InputError(
                f"the student has {len(student)} layers, the teacher {len(teacher)}: spread them "
                '(match="spread"), or pair them by number with student and teacher'
            )
        numbers = self._numbers(len(student))
        if self.teacher is not None:
            partners = _resolved(self.teacher, len(teacher), "teacher")
        else:
            # As deep, rounded up; the same numbers for networks of equal depth.
            partners = [-(-(number + 1) * len(teacher) // len(student)) - 1 for number in numbers]
        return tuple(student[number] for number in numbers), tuple(teacher[number] for number in partners)

    def _numbers(self, count: int) -> Sequence[int]:
        """The student's layers, from 0."""
        if self.student is not None:
            numbers = _resolved(self.student, count, "student")
            if len(set(numbers)) < len(numbers):
                raise InputError(f"student must name layers, each once; of {count} layers {self.student} are {numbers}")
            return numbers
        for name in ("first", "last"):
            wanted = getattr(self, name)
            if wanted is not None and wanted > count:
                raise InputError(f"{name} asks for {wanted} layers; there are {count}")
        start = count - self.last if self.last is not None else 0
        return range(start, count if self.first is None else self.first)


def _resolved(numbers: Sequence[int], count: int, role: str) -> list[int]:
    """Numbers from 0, where negative ones count from the end."""
    strange = [number for number in numbers if not -count <= number < count]
    if strange:
        raise InputError(
            f"the {role} has no layer {', '.join(map(str, strange))}: it has {count}, numbered from 0 to {count - 1}"
        )
    return [number % count for number in numbers]
