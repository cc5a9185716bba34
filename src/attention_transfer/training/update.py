"""One step of the optimiser: gradients of one or several batches, scaled, looked at, clipped, taken and averaged."""

import hashlib
import random
from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import torch
from torch import nn

from attention_transfer.distiller import Output
from attention_transfer.training.averaging import WeightAverage
from attention_transfer.training.holding import held_without_gradient
from attention_transfer.training.metrics import FiniteGuard, NonFiniteLossError
from attention_transfer.training.plan import Plan


def seed_step(seed: int, epoch: int, step: int, rank: int) -> None:
    """Seed all global generators before a step, so that it does not depend on the steps before."""
    _seed_all(f"{seed} {epoch} {step} {rank}")


def seed_batch(seed: int, epoch: int, step: int, rank: int) -> None:
    """Seed all global generators before a batch is drawn from a user's loader."""
    _seed_all(f"batch {seed} {epoch} {step} {rank}")


def seed_of_epoch(seed: int, epoch: int) -> int:
    """Seed of the generator that draws the order of an epoch; the same for all processes."""
    return int.from_bytes(_digest(f"order {seed} {epoch}"), "little") >> 1


def _seed_all(words: str) -> None:
    digest = _digest(words)
    torch.manual_seed(int.from_bytes(digest, "little", signed=True))
    random.seed(digest)
    np.random.seed(int.from_bytes(digest[:4], "little"))


def _digest(words: str) -> bytes:
    return hashlib.blake2b(words.encode(), digest_size=8).digest()


# Below it no gradient of float32 is too large for float16: what is not finite comes from elsewhere.
_LEAST_SCALE = 2.0**-14


def peak_learning_rate(optimizer: torch.optim.Optimizer) -> float:
    """The rate of the layers that have the full one."""
    return max(float(group["lr"]) for group in optimizer.param_groups)


class Update:
    """What moves the weights, phase by phase.

    Args:
        plan: of the training.
        average: of the student's weights, if there is one.
    """

    def __init__(self, plan: Plan, average: WeightAverage | None) -> None:
        self._plan, self._average = plan, average
        self.guard = FiniteGuard(plan.place.device)
        self.optimizer: torch.optim.Optimizer
        half = plan.place.precision == "float16"
        self.scaler = torch.amp.GradScaler(plan.place.device.type) if half else None

    def begin(self) -> None:
        """Forget the gradients of the step before."""
        self.optimizer.zero_grad(set_to_none=True)

    def backward(self, out: Output, share: float) -> None:
        """Accumulate the gradient of a batch.

        Args:
            out: of the batch.
            share: of it in the step.
        """
        if self.scaler is None and share == 1:
            self._plan.distiller.backward(out)
            return
        loss = out.loss if share == 1 else out.loss * share
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def step(self, epoch: int, step: int, outs: Sequence[Output]) -> None:
        """Take the step, unless something is not finite.

        Args:
            epoch: counted from 0.
            step: number of the last batch of the step in its epoch.
            outs: of the batches of the step.

        Raises:
            NonFiniteLossError: a loss is not finite, or a gradient that no scale is to blame for.
        """
        scaler, plan = self.scaler, self._plan
        moving = list(plan.distiller.trainable_parameters())
        for earlier, out in enumerate(outs[:-1], start=step + 1 - len(outs)):
            self.guard.check(epoch, earlier, out, None)
        if scaler is not None:
            # What is too large for float16 is found by the scaler: it leaves the step out and lowers the scale.
            scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in moving if p.grad is not None]
        self.guard.check(epoch, step, outs[-1], gradients if scaler is None else None)
        if plan.clip_gradient_norm is not None:
            torch.nn.utils.clip_grad_norm_(moving, plan.clip_gradient_norm)
        with held_without_gradient(moving) if plan.hold_without_gradient else nullcontext():
            if scaler is None:
                self.optimizer.step()
            else:
                self._scaled_step(scaler, epoch, step)
        if self._average is not None:
            self._average.update()

    def _scaled_step(self, scaler: torch.amp.GradScaler, epoch: int, step: int) -> None:
        scaler.step(self.optimizer)
        scaler.update()
        if scaler.get_scale() < _LEAST_SCALE:
            raise NonFiniteLossError(
                f"the training diverged in epoch {epoch + 1}, step {step}: gradients are not finite however little the "
                "loss is scaled: lower the learning rate, or compute in bfloat16 or float32"
            )

    def check_weights(self, epoch: int, module: nn.Module) -> None:
        """Look at everything that an epoch has changed.

        Raises:
            NonFiniteLossError: something in it is not finite.
        """
        self.guard.read()
        self.guard.check_weights(epoch, module)
