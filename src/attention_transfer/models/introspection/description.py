"""What can be read from a network: worked out once, when a distiller is built.

>>> Input(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)).mean
(0.5, 0.5, 0.5)

A network of your own can say where its stages are, `declared_stages`, a tuple of:

>>> stage = Stage(output=Tap("encoder.0"), pre_activation=None)
>>> description = Description((stage,), head="classifier")
>>> str(description.tap("encoder.1")), str(description.tap("encoder.1", "input"))
('encoder.1', 'input of encoder.1')
"""

from dataclasses import dataclass, replace
from typing import Literal

from attention_transfer.capture import CaptureError, Places, Tap
from attention_transfer.models.introspection.layouts import such_as, tap_seen


@dataclass(frozen=True)
class Stage:
    """One top-level stage of a network.

    Args:
        output: its value at its end; where a pooling separates the stages, the value before it.
        pre_activation: the same value before its last activation; where a stage ends without one, equal to `output`,
            or what the next activation takes where the network says so (wide ResNets: the sum after the next batch
            norm); None if unknown (the user then names a module).
    """

    output: Tap
    pre_activation: Tap | None


@dataclass(frozen=True)
class Input:
    """How a network expects its images, given images in 0…1.

    Args:
        mean: per channel, subtracted.
        std: per channel, divided by after that.
        size: height and width; None accepts any.
    """

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Description:
    """What can be read from a network, by name.

    Args:
        stages: top-level stages from input to output, without the stem.
        head: path of the linear layer that makes the logits; None where there is none.
        token_heads: paths of the layers that make logits from its class token and from its distillation token, where
            its logits are the mean of both.
        input: the images it was trained on; None if unknown.
        convolutional: whether it is made of convolutions (then channels_last pays).
        normalised: whether it holds norms, in its stages or elsewhere.
        pooled: the value whose mean over all positions the head takes; None if unknown. Found by structure, so
            whoever uses it proves it (`prove_class_maps`).
        architecture: qualified name of the network's class, without a wrapper of ours; equal for networks that differ
            in depth and width only.
        attention: its layers of self-attention, input to output. These three are found by running the network, and
            only where somebody asks for them (`with_attention`).
        attention_elsewhere: places outside of its blocks, or where a few queries look at all tokens.
        attention_unread: blocks that hold attention of which nothing could be read.
        places: what its modules gave when it was run (`with_places`); None where it was not.
        suggested: modules that can be named as layers, where it was.
    """

    stages: tuple[Stage, ...]
    head: str | None = None
    token_heads: tuple[str, str] | None = None
    input: Input | None = None
    convolutional: bool = True
    normalised: bool = True
    pooled: Tap | None = None
    architecture: str = ""
    attention: tuple[Tap, ...] = ()
    attention_elsewhere: tuple[Tap, ...] = ()
    attention_unread: tuple[str, ...] = ()
    places: Places | None = None
    suggested: tuple[str, ...] = ()

    def tap(self, module: str, site: Literal["output", "input"] = "output") -> Tap:
        """A place named by the user, with the layout that the stages of this network have.

        Args:
            module: its path; `PATH[0]` is the first of several tensors, `PATH#2` the second call of a module that runs
                several times.
            site: what is read there.

        Raises:
            CaptureError: for tokens that lie in an order of their own.
        """
        known = {stage.output.name: stage.output for stage in self.stages if stage.output.item is None}
        if module in known:
            return replace(known[module], site=site)
        usual = replace((self.stages[0].output if self.stages else Tap(module)).at(module), site=site)
        if self.places is None:
            return usual
        found = tap_seen(self.places, usual)
        if found is None:
            raise CaptureError(
                f"the tokens that {module!r} gives do not lie row by row, so that no map can be made of them: name "
                f"another layer{such_as(self.suggested)}"
            )
        return found
