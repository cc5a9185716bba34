"""Which parameters are trained in a phase, and which are frozen."""

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from attention_transfer.capture import CaptureError, Modes, set_mode
from attention_transfer.errors import InputError
from attention_transfer.methods import Phase, Term


class Moving:
    """Student and learned parts, as a phase trains them.

    Whether the student's parameters need a gradient is their owner's to say: where the student is frozen, it is run
    without one. Frozen parts need none; those that their owner froze stay frozen.

    Args:
        student: the network that learns.
        parts: what the methods learn.
        reached: names of the parameters that each term has a gradient for, as was proved.
        reached_by_logits: names of those that the student's logits have a gradient for.
    """

    def __init__(
        self,
        student: nn.Module,
        parts: nn.ModuleDict,
        reached: Mapping[str, frozenset[str]],
        reached_by_logits: frozenset[str],
    ) -> None:
        self._modules: dict[str, nn.Module] = {"student": student, "parts": parts}
        self._reached, self._reached_by_logits = reached, reached_by_logits
        # Names of parts' parameters that are frozen, and the modes that modules had before.
        self._held: set[str] = set()
        self._modes: dict[str, Modes] = {}
        self._proved = {name for name, p in self._all().items() if p.requires_grad}
        self.phase = Phase("all")

    @property
    def terms(self) -> frozenset[str]:
        """Names of all terms."""
        return frozenset(self._reached)

    def enter(self, phase: Phase) -> None:
        """Let move what the phase trains, in the mode that it had before it rested, and nothing else."""
        self.phase = phase
        self._rest(self._modules.keys() - self.modules().keys())
        reached = self.reached()
        for name, parameter in self._all().items():
            moves = name.partition(".")[0] in self.modules()
            if name.startswith("parts."):
                moves = self._hold(name, parameter, rests=not moves or name not in reached)
            if not moves:
                # An optimiser leaves alone what has no gradient; one of zeros it would still decay.
                parameter.grad = None

    def modules(self) -> dict[str, nn.Module]:
        """The modules that the phase trains, by name."""
        trains = self.phase.trains
        return dict(self._modules) if trains == "both" else {trains: self._modules[trains]}

    def parameters(self) -> Iterator[nn.Parameter]:
        """All that move in some phase."""
        for name, parameter in self._all().items():
            if parameter.requires_grad or name in self._held:
                yield parameter

    def named(self) -> dict[str, nn.Parameter]:
        """All that move in this phase and from which a step's output is made, by name."""
        used = self.reached() | (self._reached_by_logits if self.phase.runs_student else frozenset[str]())
        return {
            name: parameter
            for name, parameter in self._all().items()
            if parameter.requires_grad
            and name.partition(".")[0] in self.modules()
            and (name in used or name not in self._proved)
        }

    def unreached(self, term: str) -> frozenset[str]:
        """Names of the parameters that a term was proved not to depend on."""
        return frozenset(self._proved - self._reached.get(term, frozenset[str]()))

    def unused(self) -> tuple[str, ...]:
        """Names of parameters that need a gradient and that no term of the phase gives one."""
        moving, reached = self.modules(), self.reached()
        return tuple(
            name
            for name, parameter in self._all().items()
            if parameter.requires_grad and (name.partition(".")[0] not in moving or name not in reached)
        )

    def reached(self) -> frozenset[str]:
        """Names of the parameters that some term of the phase has a gradient for."""
        return frozenset[str]().union(*(names for term, names in self._reached.items() if self.phase.counts(term)))

    def check(self, terms: Mapping[str, Term]) -> None:
        """Refuse terms that have no gradient any more.

        Raises:
            CaptureError: for a term that was proved to have one for something that moves.
            InputError: where everything that the phase trains was frozen.
        """
        modules = self.modules()
        parameters: list[Tensor] = [parameter for module in modules.values() for parameter in module.parameters()]
        # Parameters may be swapped for plain tensors while they are called.
        frozen = not any(parameter.requires_grad for parameter in parameters)
        frozen = frozen and all(isinstance(parameter, nn.Parameter) for parameter in parameters)
        if frozen and any(module.training for module in modules.values()):
            found = [name for name, module in modules.items() if next(module.parameters(), None) is not None]
            raise InputError(
                f"nothing is trained in this step: all parameters of {' and '.join(found)} were frozen after the "
                "distiller was built; call requires_grad_(True) on what shall learn, or measure in evaluation mode"
            )
        for name, term in terms.items():
            if not term.value.requires_grad and self._reaches(name):
                raise CaptureError(
                    f"the term {name!r} had a gradient when the distiller was built and has none now: the student is "
                    "checkpointed with use_reentrant=True (use False), or was changed after it was built"
                )

    def set_modes(self) -> None:
        """Put what is frozen into evaluation mode, after everything was given one."""
        resting = set(self._modes)
        self._modes.clear()
        self._rest(resting)

    def release(self) -> None:
        """Let nothing stay frozen any longer."""
        self._rest(set())
        for name in self._held:
            self._all()[name].requires_grad_(True)
        self._held.clear()

    def _reaches(self, term: str) -> bool:
        moving = self.modules()
        return any(
            parameter.requires_grad and name.partition(".")[0] in moving
            for name, parameter in self._all().items()
            if name in self._reached[term]
        )

    def _all(self) -> dict[str, nn.Parameter]:
        return {
            f"{module}.{name}": parameter
            for module, each in self._modules.items()
            for name, parameter in each.named_parameters()
        }

    def _hold(self, name: str, parameter: nn.Parameter, *, rests: bool) -> bool:
        """Freeze a parameter of parts or let it be trained, unless its owner froze it; whether it is trained now."""
        if parameter.requires_grad or name in self._held:
            parameter.requires_grad_(not rests)
            (self._held.add if rests else self._held.discard)(name)
        return parameter.requires_grad

    def _rest(self, names: set[str]) -> None:
        for name in self._modes.keys() - names:
            self._modes.pop(name).set()
        for name in names - self._modes.keys():
            module = self._modules[name]
            self._modes[name] = Modes(module)
            set_mode(module, False)
