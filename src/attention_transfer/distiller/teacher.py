"""A teacher that is read and never trained; everything that was changed of it can be taken back."""

import threading
import weakref
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from attention_transfer.capture import CaptureError, Folding, Images, LogitsAt, Modes, Reading, set_mode
from attention_transfer.capture.batch_norm_folding import FoldingError
from attention_transfer.capture.isolation import Buffer, buffers_of, changed, kept
from attention_transfer.capture.opaque_modules import is_graph
from attention_transfer.capture.outputs import first_image
from attention_transfer.capture.same_noise import check_same_noise
from attention_transfer.distiller.observed_network import Network, together
from attention_transfer.distiller.received_images import cast_for
from attention_transfer.distiller.setup import Teaching, role_of
from attention_transfer.errors import InputError
from attention_transfer.methods.method import Observed, Request


class Frozen:
    """A network without gradients, until it is released.

    Args:
        model: stays the user's own object.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        others = [other for other in _HOLDERS.get(model, ()) if other.holds]
        # What another distiller has frozen did not come so.
        self._required = others[0]._required if others else [(p, p.requires_grad) for p in model.parameters()]
        self._modes = others[0]._modes if others else Modes(model)
        self.holds = True
        _HOLDERS.setdefault(model, weakref.WeakSet()).add(self)
        for parameter in model.parameters():
            parameter.requires_grad_(False)

    @property
    def lock(self) -> "threading.RLock":  # pyright: ignore
        """For who runs the network, so that distillers in several threads change its modes one after the other."""
        return _LOCKS.setdefault(self.model, threading.RLock())

    def release(self) -> None:
        """Give the network back as trainable, and in the modes, as it came, unless another distiller holds it still."""
        self.holds = False
        if any(other.holds for other in _HOLDERS.get(self.model, ())):
            return
        for parameter, required in self._required:
            if parameter.requires_grad != required:
                # What was made in inference mode is thawed there alone.
                with torch.inference_mode(parameter.is_inference()):
                    parameter.requires_grad_(required)
        self._modes.set()
        self._required = []


_HOLDERS: weakref.WeakKeyDictionary[nn.Module, weakref.WeakSet[Frozen]] = weakref.WeakKeyDictionary()
_LOCKS: weakref.WeakKeyDictionary[nn.Module, "threading.RLock"] = weakref.WeakKeyDictionary()  # pyright: ignore


class TeacherMemory(Protocol):
    """Knows what the teacher of a distiller gave for the images of a training step, or keeps it."""

    def read(self, epoch: int, index: Tensor, run: Callable[[], Reading]) -> Reading:
        """What the teacher gives.

        Args:
            epoch: counted from 0.
            index: dataset indices of the images, shape (batch,).
            run: runs it.
        """
        ...


_NOTHING = Observed(None)


class Teacher:
    """The frozen network of a distiller.

    Not a module, so that nothing of it gets into the distiller's `parameters()` and `state_dict()`.

    Args:
        said: the network, which stays the user's own object, and how it receives its images.
        requests: of all methods; if they ask for nothing, it is never run.
        head: path of its linear head.
        modes: that the methods want it to run in, see `Method.teacher_mode`.
        beside: the student.
        name: what it was given as.
        read_by: what reads its logits, for messages.

    Raises:
        CaptureError: for a place that does not exist.
    """

    def __init__(
        self,
        said: Teaching,
        requests: Sequence[Request],
        head: str | None,
        modes: Collection[str],
        beside: nn.Module,
        name: str,
        read_by: Sequence[str] = (),
    ) -> None:
        model, self.name, self.role = said.model, name, role_of(name)
        self.model, self.head, self._transform, self._device = model, head, said.images, said.device
        if said.device is not None:
            model.to(said.device)
        logits = LogitsAt.of(model, self.role, said.logits, read_by)
        self._network = (
            Network(model, self.role, requests, head, logits, said.images, beside, said.device)
            if together(requests).anything
            else None
        )
        self._wanted_modes = frozenset(modes)
        self._memory: TeacherMemory | None = None
        self._folding = Folding()
        self._same_noise = self._follows_training = self._alone = False
        self._moving: tuple[Buffer, ...] = ()
        self._norms = [cast(Any, module) for module in model.modules() if hasattr(module, "track_running_stats")]
        self._frozen = Frozen(model)
        self._modes = Modes(model)

    def follow(self, training: bool) -> None:
        """Take the mode that goes with the student's, and keep it whoever asks the network for another."""
        self._follows_training = training
        self._same_noise = "same noise" in self._wanted_modes and training
        # What is measured of it, or answered by it in place of the student, is what it is used for.
        self._alone = "train" in self._wanted_modes and training
        set_mode(self.model, self._alone or self._same_noise)
        for norm in self._norms:
            # Only what is drawn at random follows the student of the same noise.
            norm.train(self._alone and norm.training)
        self._modes = Modes(self.model)

    def check_noise(self, student: nn.Module, images: Images) -> None:
        """Refuse networks that cannot drop the same residuals, where a method asks for it.

        Args:
            student: inside of `undisturbed`, as this network.
            images: noise, as the student receives it.

        Raises:
            ValueError: see `check_same_noise`.
        """
        if "same noise" in self._wanted_modes:
            if not isinstance(images, Tensor):
                raise InputError("same_drop_path wants images in one tensor, not a list of images")
            check_same_noise(student, self.model, images, cast_for(self.model, self._transform(images), student))

    def remember(self, memory: TeacherMemory) -> None:
        """Ask a memory before running it in training, where the dataset indices of the images are known.

        Raises:
            ValueError: if nothing is read of it, or what it gives depends on more than its images.
        """
        if self._network is None:
            raise InputError("nothing is read of the teacher")
        if self._network.differentiated:
            raise InputError("its gradients are read")
        others = self._wanted_modes - {"eval"}
        if others:
            raise InputError(f"a method runs it in mode {', '.join(map(repr, sorted(others)))}")
        self._memory = memory

    def read(self, images: Images, labels: Any, place: tuple[int, Tensor] | None = None) -> Reading | None:
        """Run it once without a graph; None where nothing is wanted of it.

        Args:
            images: as the student receives them.
            labels: class indices or probabilities, where its gradients are wanted.
            place: epoch, and dataset indices of the images, where they are known.
        """
        if self._network is None:
            return None
        if self._memory is not None and place is not None and self._follows_training:
            return self._memory.read(*place, partial(self._run, images, labels))
        if not self._same_noise:
            return self._run(images, labels)
        device = self._device or first_image(images).device
        accelerators = [] if device.type == "cpu" else [device.index or 0]
        kind: Any = "cuda" if not accelerators else device.type
        # Given back afterwards: the student draws the same numbers.
        with torch.random.fork_rng(accelerators, device_type=kind):
            return self._run(images, labels)

    def probe(self, images: Images, labels: Any) -> Reading | None:
        """The same on noise, with proof of everything that is read.

        Raises:
            CaptureError: if something does not hold what it promises, or the network was recorded in training mode.
        """
        if self._network is None:
            return None
        network, seen = self._network, list[Reading]()
        with self._statistics_left_alone():
            self._moving = changed(buffers_of(self.model), lambda: seen.append(network.probe(images, labels)))
            if any(map(is_graph, self.model.modules())):
                self._prove_recorded_at_rest(seen[0], network.read(images, labels))
        # Elsewhere than on a CPU, more may be lost by computing weights in each step than norms take.
        if (self._device or first_image(images).device).type == "cpu" and not self._wanted_modes - {"eval"}:
            run = partial(network.read, images, None)
            self._folding = Folding.found(self.model, run, len(images), network.modules_read)
        return seen[0]

    def observed(self, reading: Reading | None, request: Request) -> Observed:
        """What one method sees of it."""
        return _NOTHING if reading is None or self._network is None else self._network.observed(reading, request)

    @property
    def runs(self) -> bool:
        """Whether anything is read of it."""
        return self._network is not None

    @property
    def logits(self) -> "LogitsAt | None":
        """Where its logits are; None where nothing is read of it."""
        return None if self._network is None else self._network.logits

    def release(self) -> None:
        """Leave the network without a hook, in the modes and as trainable as it came."""
        if self._network is not None:
            self._network.close()
        self._folding = Folding()
        self._frozen.release()

    def _run(self, images: Images, labels: Any) -> Reading:
        if torch.compiler.is_compiling():
            return self._run_as_wanted(images, labels)
        with self._frozen.lock:
            return self._run_as_wanted(images, labels)

    def _run_as_wanted(self, images: Images, labels: Any) -> Reading:
        self._modes.set()
        with self._statistics_left_alone(), kept(self._moving) if self._moving else nullcontext():
            return self._run_folded(images, labels)

    def _run_folded(self, images: Images, labels: Any) -> Reading:
        assert self._network is not None
        # Compilers join a norm with what follows it.
        if self._folding.pairs and not torch.compiler.is_compiling():
            try:
                with self._folding(len(images)):
                    return self._network.read(images, labels)
            except FoldingError:
                # Its owner has changed it since.
                self._folding = Folding()
        return self._network.read(images, labels)

    @contextmanager
    def _statistics_left_alone(self) -> Generator[None]:
        """In training mode the statistics of the batch are used, and those that were learned are left alone."""
        tracking = [norm for norm in self._norms if norm.track_running_stats] if self._alone else []
        try:
            for norm in tracking:
                norm.track_running_stats = False
            yield
        finally:
            for norm in tracking:
                norm.track_running_stats = True

    def _prove_recorded_at_rest(self, first: Reading, second: Reading) -> None:
        moving = sorted({name for _, name in self._moving})
        differ = [
            not torch.allclose(one, other, rtol=1e-2, atol=1e-2 * float(other.abs().max()))
            for one, other in zip(_tensors(first), _tensors(second), strict=True)
            if one.is_floating_point()
        ]
        if moving or any(differ):
            found = f"changes its own {', '.join(moving)}" if moving else "gives other values for the same images"
            raise CaptureError(
                f"the {self.role} runs a graph that was traced or exported, and {found} each time it runs: it was "
                "recorded in training mode, in which it stays; call eval() on the network before it is recorded"
            )


def _tensors(reading: Reading) -> list[Tensor]:
    logits = reading.logits
    return [*([] if logits is None else [logits]), *reading.values.values()]
