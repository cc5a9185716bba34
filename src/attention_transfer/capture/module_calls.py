"""How often the modules that are read run in one forward pass."""

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from attention_transfer.capture.output_layouts import find_places
from attention_transfer.capture.outputs import Images
from attention_transfer.capture.tap import CaptureError, Tap


class Runs:
    """Counts while a network is probed; of a module that runs several times it is unknown which run is meant.

    Args:
        model: the network.
        taps: places that are read.
        role: `teacher` or `student`, for messages.
    """

    def __init__(self, model: nn.Module, taps: Sequence[Tap], role: str) -> None:
        self._model, self._taps, self._role = model, taps, role
        self._all, self._counted = Counter[Tap](), Counter[Tap]()
        self._owners = Counter[str]()
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> None:
        for path in {tap.within for tap in self._taps if tap.within is not None}:
            self._handles.append(self._model.get_submodule(path).register_forward_pre_hook(self._noting(path)))

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()

    def note(self, tap: Tap, counted: bool) -> None:
        """A run of the module of a place.

        Args:
            tap: the place.
            counted: whether it is one of those that are read.
        """
        self._all[tap] += 1
        self._counted[tap] += counted

    def seen(self, tap: Tap) -> int:
        """The number of the current run, as a recorder counts them."""
        return self._all[tap] if tap.call is not None else self._counted[tap]

    def check(self, replaced: Collection[Tap], image: Images) -> None:
        """Refuse places of which several runs could be meant, or that do not run often enough.

        Args:
            replaced: places at which the network goes on with something else.
            image: as it was given to the network.

        Raises:
            CaptureError: with the ways to name one.
        """
        for tap in self._taps:
            runs = self._all[tap] if tap.within is None else self._owners[tap.within]
            if tap.call is not None and runs < tap.call:
                raise CaptureError(
                    f"{tap.module} of the {self._role} runs {_times(runs)} in one forward pass, so that there is no "
                    f"{tap.name!r}: calls are counted from 1"
                )
            if tap.call is not None and tap in replaced:
                raise CaptureError(
                    f"{tap} of the {self._role} is one of {runs} runs of its module, which can be read and not "
                    "replaced: name a layer whose module runs once"
                )
            if tap.call is None and runs > 1:
                raise CaptureError(self._several(tap, runs, image))

    def _several(self, tap: Tap, runs: int, image: Images) -> str:
        module = tap.module if tap.within is None else tap.within
        named = (
            f"the call that is meant ({tap.name + '#1'!r} to {tap.name + f'#{runs}'!r}), or " if not tap.within else ""
        )
        once = self._once(module, image)
        instead = f"such as {', '.join(map(repr, once))}" if once else "with student_layers= and teacher_layers="
        return (
            f"{module} of the {self._role} runs {_times(runs)} in one forward pass, and it is unknown which run is "
            f"meant: name {named}a module that runs once, {instead}"
        )

    def _once(self, module: str, image: Images) -> list[str]:
        """Modules around one that run once and give one tensor, nearest first, and those beside it."""
        places = find_places(self._model, image)
        if places is None:
            return []
        plain = [
            path
            for path, each in places.outputs.items()
            if path and each.calls == 1 and list(each.shapes) == [None] and len(each.shapes[None]) > 2
        ]
        parents = [path for path in plain if module.startswith(f"{path}.")]
        beside = [path for path in plain if path.rpartition(".")[0] == module.rpartition(".")[0] and path != module]
        return [*sorted(parents, key=len, reverse=True), *beside][:3]

    def _noting(self, path: str) -> Any:
        def note(module: nn.Module, args: Any) -> None:
            if not torch.compiler.is_compiling():
                self._owners[path] += 1

        return note


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
