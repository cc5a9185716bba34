"""What is refused of a batch, before either network sees it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from attention_transfer.capture import Images
from attention_transfer.capture.outputs import first_image
from attention_transfer.distiller.image_checks import Kind, check_images
from attention_transfer.distiller.task_loss import CrossEntropy, OwnLoss, TaskLoss
from attention_transfer.errors import InputError
from attention_transfer.methods import Reads


@dataclass(frozen=True)
class Late:
    """Values on their way from a device to the host; looking at them waits for nothing that was asked of it since.

    Args:
        values: where they arrive.
        arrived: tells when they have; None where asking for them waits by itself.
        judge: is given them.
    """

    values: Tensor
    arrived: torch.cuda.Event | None
    judge: Callable[[Tensor], None]

    @classmethod
    def sent(cls, values: Tensor, judge: Callable[[Tensor], None]) -> "Late":
        """Send values to the host.

        Args:
            values: few, on any device.
            judge: is given them on a CPU when they are read; raises if they are wrong.
        """
        if values.device.type != "cuda":
            # Elsewhere a copy that waits for nothing is not safe. What somebody may write over in between is copied.
            return cls(values.clone(), None, judge)
        host = torch.empty_like(values, device="cpu", pin_memory=True).copy_(values, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record(torch.cuda.current_stream(values.device))
        return cls(host, arrived, judge)

    def read(self) -> None:
        """Look at them; raises what the judge raises."""
        if self.arrived is not None:
            self.arrived.synchronize()
        self.judge(self.values.cpu())


class BatchChecks:
    """Refuses batches that a distiller cannot learn from.

    Kinds and shapes are looked at in every call. Values are too on a CPU; an accelerator is asked for them in the first
    step, and then in each step for those of the step before, which it knows by then: nothing waits for it. Until they
    have been looked at, class indices that the student has not count as images without a label.

    Args:
        methods: what each of them reads, by its name.
        loss: of the task; None where no labels are learned here.
        kind: of the images.
        outputs: shape of the student's logits of one image; empty where it has none.
        num_train_images: among which `index` counts; None where that is not known.
        dropping: whether teachers are left out for single images.
    """

    def __init__(
        self,
        methods: Mapping[str, Reads],
        loss: TaskLoss | OwnLoss | None,
        kind: Kind,
        outputs: Sequence[int],
        num_train_images: int | None = None,
        *,
        dropping: bool = False,
    ) -> None:
        self._kind, self._outputs, self._num_train_images = kind, outputs, num_train_images
        readers = {name: reads for name, reads in methods.items() if reads.batch.labels or reads.batch.class_indices}
        self._needs_labels = loss is not None or bool(readers)
        self._form = loss if isinstance(loss, TaskLoss) else CrossEntropy() if readers else None
        self._wanting_indices = [name for name, reads in methods.items() if reads.batch.class_indices]
        self._refusing_unlabelled = [name for name, reads in readers.items() if not reads.batch.unlabelled]
        self._wanting_index = [name for name, reads in methods.items() if reads.batch.index]
        if dropping:
            self._wanting_index.append("teacher_dropping")
        self._late: list[Late] = []
        self._looked = False

    def __call__(self, images: Any, labels: Any, index: Any) -> tuple[Any, Tensor | None]:
        """Labels and index as they are learned from.

        Raises:
            InputError: names the argument, what it is and what it must be; or those of the step before.
        """
        compiling = torch.compiler.is_compiling()
        if not compiling:
            self.read_late()
        self.images(images)
        if self._needs_labels and labels is None:
            raise InputError("labels are needed: task_weight is not 0, or a method reads them")
        if self._form is not None:
            labels = self._form.shaped(labels, len(images), self._outputs, self._wanting_indices)
        if self._wanting_index:
            self._check_index(images, index)
        if compiling or _recorded(images):
            return labels, index
        if self._form is not None and _has_values(labels):
            labels = self._form.judged(labels, self._outputs, self._refusing_unlabelled, self._look)
        if self._wanting_index:
            index = self._look_at_index(index)
        self._looked = True
        return labels, index

    def images(self, images: Any) -> None:
        """Refuse what are no images of the kind that the distiller was built with.

        Raises:
            InputError: says what is wanted.
        """
        check_images(images, self._kind)

    def read_late(self) -> None:
        """Look at the values of the step before.

        Raises:
            InputError: if they could not be learned from.
        """
        late, self._late = self._late, []
        for each in late:
            each.read()

    def _check_index(self, images: Images, index: Any) -> None:
        if index is None:
            raise InputError(
                f"index is needed by {', '.join(self._wanting_index)}: give the dataset indices of the images as "
                "third argument"
            )
        if not isinstance(index, Tensor):
            raise InputError(
                f"index must be a tensor of one whole number (int64) for each image, not a value of type "
                f"{type(index).__name__}: give torch.tensor(index)"
            )
        if index.dtype != torch.int64 or index.shape != (len(images),):
            raise InputError(
                f"index must have one whole number (int64) for each of the {len(images)} images, not {index.dtype} of "
                f"shape {tuple(index.shape)}"
            )

    def _look_at_index(self, index: Tensor) -> Tensor:
        if not _has_values(index):
            return index
        count = self._num_train_images
        known = self._look(index, partial(_judge_index, count=count))
        return index if known or count is None else index.clamp(0, count - 1)

    def _look(self, values: Tensor, judge: Callable[[Tensor], None]) -> bool:
        """Judge values now, or leave it to the next step; whether it was now."""
        if self._looked and _waits(values.device):
            self._late.append(Late.sent(values, judge))
            return False
        judge(values.cpu())
        return True


def _judge_index(index: Tensor, count: int | None) -> None:
    lowest, highest = (int(each) for each in torch.aminmax(index))
    if lowest < 0 or (count is not None and highest >= count):
        among = "" if count is None else f", and train_labels are those of {count} images"
        raise InputError(
            f"index has dataset indices from {lowest} to {highest}{among}: give each image's dataset index among the "
            "training images, from 0"
        )


def _waits(device: torch.device) -> bool:
    """Whether the host must wait for a device to know what it holds."""
    return device.type != "cpu"


def _has_values(value: Tensor) -> bool:
    """Whether there is anything to look at: not in tensors without storage, nor in those that make others of calls."""
    dispatched = (getattr(kind, "__torch_dispatch__", None) for kind in (type(value), Tensor))
    return next(dispatched) is next(dispatched) and not value.is_meta


def _recorded(images: Images) -> bool:
    """Whether the step is being recorded as a graph of an accelerator, which may ask it for nothing."""
    return first_image(images).is_cuda and torch.cuda.is_current_stream_capturing()
