"""Metrics of a run: running means on the device, and the guard against losses that are not finite."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from attention_transfer.distiller import Output
from attention_transfer.training.distributed import Process


class NonFiniteLossError(RuntimeError):
    """A loss or gradient was infinite or not a number; it did not reach the weights."""


class RunningMeans:
    """Means of an epoch, summed on the device so that no step waits for it."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._weights: dict[str, float] = {}
        self._count = 0

    @torch.no_grad()
    def add(self, out: Output, labels: Tensor | None, count: int) -> None:
        """Take in one step.

        Args:
            out: of the step.
            labels: class indices or probabilities; None where the loss of them is not to be shown.
            count: of its images.
        """
        values = {f"term/{name}": term.value.detach() for name, term in out.terms.items()}
        # A network that is pre-trained has logits of no classes.
        if labels is not None and out.student_logits is not None and out.student_logits.shape[1]:
            logits = out.student_logits.detach().float()
            values["loss"] = functional.cross_entropy(logits, labels)
            values["top1"] = 100 * (logits.argmax(1) == likeliest(labels)).float().mean()
        for name, value in values.items():
            addend = value.double() * count if value.device.type == "cpu" else value.float() * count
            self._sums[name] = self._sums[name] + addend if name in self._sums else addend
        self._weights = {name: float(term.weight) for name, term in out.terms.items()}
        self._count += count

    def row(self, process: Process | None = None) -> dict[str, Any]:
        """The means so far over all processes, as a row of the metrics file has them. Waits for the device."""
        process = process or Process()
        sums = {name: float(process.total(value.clone())) for name, value in self._sums.items()}
        example = next(iter(self._sums.values()), torch.zeros(()))
        count = max(1.0, float(process.total(torch.full_like(example, self._count))))
        means = {name: value / count for name, value in sums.items()}
        terms = {
            name: {"raw": means[f"term/{name}"], "weight": weight, "weighted": weight * means[f"term/{name}"]}
            for name, weight in self._weights.items()
        }
        train = {name: means[name] for name in ("loss", "top1") if name in means}
        return {"terms": terms, "train": train}

    def state(self) -> dict[str, Any]:
        """What a checkpoint inside an epoch keeps."""
        return {"sums": dict(self._sums), "weights": dict(self._weights), "count": self._count}

    def load(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Go on from a checkpoint."""
        self._sums = {name: value.to(device) for name, value in state["sums"].items()}
        self._weights, self._count = dict(state["weights"]), int(state["count"])


class FiniteGuard:
    """Keeps losses and gradients that are not finite away from the weights, and stops the run.

    On a CPU every step is looked at. On an accelerator the gradient of a bad step is set to zero on the device, and the
    flag that remembers the first bad step is read every `interval` steps and before every checkpoint.
    """

    def __init__(self, device: torch.device, interval: int = 25) -> None:
        self._interval = 1 if device.type == "cpu" else interval
        self._eager = device.type == "cpu"
        self._seen: list[tuple[int, int, tuple[str, ...], Tensor]] = []

    @torch.no_grad()
    def check(self, epoch: int, step: int, out: Output, gradients: list[Tensor] | None) -> None:
        """Look at one step, after its backward and before the optimiser.

        Args:
            epoch: counted from 0.
            step: in the epoch, from 0.
            out: of the step.
            gradients: of all that moves; None where they are not complete yet, or somebody else looks at them.

        Raises:
            NonFiniteLossError: naming the term and the step.
        """
        names = tuple(out.terms)
        # Weighted, so that the message can tell which term has taken over.
        values = [term.weighted.detach().float() for term in out.terms.values()]
        if gradients is not None:
            names, values = (*names, "gradient"), [*values, torch.nn.utils.get_total_norm(gradients).float()]
        sizes = torch.stack(values)
        if not self._eager and gradients is not None:
            fine = sizes.isfinite().all()
            for gradient in gradients:
                gradient.copy_(torch.where(fine, gradient, torch.zeros_like(gradient)))
        self._seen.append((epoch, step, names, sizes))
        if len(self._seen) >= self._interval:
            self.read()

    def read(self) -> None:
        """Look at the flags of the steps since the last reading.

        Raises:
            NonFiniteLossError: naming the term and the step.
        """
        seen, self._seen = self._seen, []
        for epoch, step, names, sizes in seen:
            values = dict(zip(names, sizes.tolist(), strict=True))
            bad = [name for name, value in values.items() if not isfinite(value)]
            if bad:
                listed = ", ".join(f"{name} {value:.3g}" for name, value in values.items())
                raise NonFiniteLossError(
                    f"the training diverged, not finite: {', '.join(bad)} in epoch {epoch + 1}, step {step} (weighted "
                    f"terms and norm of the gradient: {listed}). The weights are those of the step before: "
                    f"{_what_to_lower(values, bad)}, or use --precision float32"
                )

    @torch.no_grad()
    def check_weights(self, epoch: int, module: nn.Module) -> None:
        """Look at what an epoch has made of parameters and running statistics.

        Raises:
            NonFiniteLossError: if any of them is not finite.
        """
        values = [v for v in (*module.parameters(), *module.buffers()) if v.is_floating_point()]
        if not torch.stack([value.isfinite().all() for value in values]).all():
            raise NonFiniteLossError(
                f"the training diverged: weights or running statistics are not finite after epoch {epoch + 1}, though "
                "every loss was: lower --learning-rate. The last checkpoint is from before"
            )


def check_scores(epoch: int, scores: Mapping[str, Any]) -> None:
    """Look at how a student that has learned for some epochs was measured.

    Args:
        epoch: that was finished, from 0.
        scores: by split, with a `loss` where it has one.

    Raises:
        NonFiniteLossError: for a loss that is not finite, though those of all training steps were.
    """
    bad = [f"{split} {row['loss']}" for split, row in scores.items() if not isfinite(row.get("loss", 0.0))]
    if bad:
        raise NonFiniteLossError(
            f"the training diverged in epoch {epoch + 1}: the student's loss is not finite ({', '.join(bad)}), though "
            "that of every training step was: lower --learning-rate. The last checkpoint is from before"
        )


def _what_to_lower(values: Mapping[str, float], bad: Sequence[str]) -> str:
    """The setting behind the term that is not finite; where only the gradient is, that of the largest term."""
    terms = {name: value for name, value in values.items() if name != "gradient"}
    first = next((name for name in bad if name in terms), None) or max(terms, key=lambda name: abs(terms[name]))
    weight = "--task-weight" if first == "ce" else f"the weight of {first}"
    return f"lower --learning-rate or {weight}"


def likeliest(labels: Int64[Tensor, " b"] | Float[Tensor, "b k"]) -> Int64[Tensor, " b"]:
    """Class indices; of class probabilities, the largest: the label of most of a mixed image."""
    return labels if labels.ndim == 1 else labels.argmax(1)


def scores(logits: Float[Tensor, "b k"], labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over a batch of cross-entropy, top-1 and top-5 hits (top-k of fewer classes where there are fewer)."""
    logits = logits.float()
    loss = functional.cross_entropy(logits, labels, reduction="sum")
    top = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
    return loss.double() if loss.device.type == "cpu" else loss, top[:, 0].sum(), top.any(1).sum()
