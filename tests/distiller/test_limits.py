"""Bounded gradients, however the gradient of a step is asked for, in one process and in two."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.closeness import assert_near
from tests.distiller.test_distiller import Limited
from tests.known import compiled_whole
from tests.trained import as_trained
from tests.two_processes import TwoProcesses
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from attention_transfer import (
    AttentionTransfer,
    Distiller,
    FitNet,
    InputError,
    Method,
    MultiHeadGraph,
    Output,
    SoftTargets,
    build,
)

Pair = tuple[nn.Module, nn.Module]
EXAMPLE = torch.empty(2, 3, 16, 16)


def batch(seed: int = 1) -> tuple[Tensor, Tensor]:
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(seed)), torch.arange(4) % 5


def limited(pair: Pair, **settings: float) -> Distiller:
    return Distiller(*pair, [Limited(), SoftTargets()], example=EXAMPLE, **settings)


def gradients(distiller: Distiller) -> list[Tensor]:
    found = [p.grad for p in distiller.student.parameters()]
    for p in distiller.student.parameters():
        p.grad = None
    return [gradient for gradient in found if gradient is not None]


def by_hand(distiller: Distiller, out: Output) -> list[Tensor]:
    """The task's gradient and that of soft targets whole, the limited one cut to half the task's."""
    parameters = list(distiller.student.parameters())
    task, soft, other = (
        torch.autograd.grad(out.terms[name].weighted, parameters, retain_graph=True) for name in ("ce", "kd", "limited")
    )
    cut = [o * min(1.0, 0.5 * float(t.norm() / o.norm())) for t, o in zip(task, other, strict=True)]
    assert any(not torch.equal(c, o) for c, o in zip(cut, other, strict=True))
    return [sum(each, torch.zeros(())) for each in zip(task, soft, cut, strict=True)]


def scaled(out: Output) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    scaler.scale(out.loss).backward()


@pytest.mark.parametrize(
    ("call", "factor"),
    [
        (lambda out: out.loss.backward(), 1),
        (lambda out: out.backward(), 1),
        (lambda out: torch.autograd.backward([out.loss]), 1),
        (lambda out: (out.loss / 4).backward(), 0.25),
        (lambda out: (-out.loss).backward(), -1),
        (scaled, 1024),
    ],
    ids=["loss", "output", "several", "share", "negative", "scaler"],
)
def test_every_call_keeps_the_limit(small_pair: Pair, call: Callable[[Output], None], factor: float) -> None:
    distiller = limited(small_pair)
    out = distiller(*batch())
    wanted = by_hand(distiller, out)
    call(out)
    for found, gradient in zip(gradients(distiller), wanted, strict=True):
        torch.testing.assert_close(found, factor * gradient)


def test_the_distillers_own_call_and_gradients_asked_for_by_name_agree(small_pair: Pair) -> None:
    distiller = limited(small_pair)
    distiller.backward(distiller(*batch()))
    wanted = gradients(distiller)
    found = torch.autograd.grad(distiller(*batch()).loss, list(distiller.trainable_parameters()))
    torch.testing.assert_close(list(found), wanted)
    some = list(distiller.student.parameters())[2:4]
    torch.testing.assert_close(list(torch.autograd.grad(distiller(*batch()).loss, some)), wanted[2:4])


def test_steps_that_are_accumulated_are_limited_each_by_itself(small_pair: Pair) -> None:
    distiller = limited(small_pair)
    each: list[list[Tensor]] = []
    for seed in (1, 2):
        distiller(*batch(seed)).loss.backward()
        each.append(gradients(distiller))
    for seed in (1, 2):
        (distiller(*batch(seed)).loss / 2).backward()
    for found, first, second in zip(gradients(distiller), *each, strict=True):
        torch.testing.assert_close(found, (first + second) / 2)


def test_an_optimiser_inside_of_the_backward_pass_sees_each_gradient_once_and_limited(small_pair: Pair) -> None:
    distiller = limited(small_pair)
    wanted = by_hand(distiller, distiller(*batch()))
    seen: dict[nn.Parameter, Tensor] = {}

    def keep(parameter: nn.Parameter) -> None:
        assert parameter not in seen
        assert parameter.grad is not None
        seen[parameter] = parameter.grad.clone()

    for parameter in distiller.student.parameters():
        parameter.register_post_accumulate_grad_hook(keep)
    distiller(*batch()).loss.backward()
    torch.testing.assert_close([seen[p] for p in distiller.student.parameters()], wanted)


def test_another_loss_comes_first_or_is_refused_by_the_call_to_make(small_pair: Pair) -> None:
    distiller = limited(small_pair)
    distiller(*batch()).loss.backward()
    alone = gradients(distiller)
    for together in (lambda own, out: (own + out.loss).backward(), lambda own, out: (out.loss + own).backward()):
        out = distiller(*batch())
        with pytest.raises(InputError, match=r"call backward\(retain_graph=True\) of your own loss first"):
            together(out.student_logits.square().mean(), out)
        gradients(distiller)
    out = distiller(*batch())
    own = out.student_logits.square().mean()
    added = torch.autograd.grad(own, list(distiller.student.parameters()), retain_graph=True)
    own.backward(retain_graph=True)
    out.loss.backward()
    for found, first, second in zip(gradients(distiller), alone, added, strict=True):
        torch.testing.assert_close(found, first + second)


def test_a_loss_that_was_only_shown_has_a_gradient_all_the_same(small_pair: Pair) -> None:
    distiller = limited(small_pair)
    wanted = by_hand(distiller, out := distiller(*batch()))
    with torch.no_grad():
        assert float(out.loss) == pytest.approx(sum(float(term.weighted) for term in out.terms.values()))
    with torch.inference_mode():
        float(out.loss)
    out.loss.backward()
    torch.testing.assert_close(gradients(distiller), wanted)


def test_without_a_gradient_the_loss_is_a_number(small_pair: Pair) -> None:
    distiller = limited(small_pair)
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            out = distiller(*batch())
        assert not out.loss.requires_grad
        assert float(out.loss) == pytest.approx(sum(float(term.weighted) for term in out.terms.values()))


def test_the_gradient_of_the_gradient_is_refused(small_pair: Pair) -> None:
    distiller = limited(small_pair)
    with pytest.raises(InputError, match="cannot be differentiated again: leave out create_graph=True"):
        torch.autograd.grad(distiller(*batch()).loss, list(distiller.student.parameters()), create_graph=True)


def test_a_layer_that_its_owner_thaws_later_is_limited_like_the_others(small_pair: Pair) -> None:
    student = small_pair[0]
    student.layer1.requires_grad_(False)
    distiller = limited(small_pair)
    distiller(*batch()).loss.backward()
    assert all(p.grad is None for p in student.layer1.parameters())
    student.layer1.requires_grad_(True)
    student.fc.requires_grad_(False)
    gradients(distiller)
    out = distiller(*batch())
    moving = [p for p in student.parameters() if p.requires_grad]
    task, soft, other = (
        torch.autograd.grad(out.terms[name].weighted, moving, retain_graph=True) for name in ("ce", "kd", "limited")
    )
    out.loss.backward()
    for p, t, s, o in zip(moving, task, soft, other, strict=True):
        torch.testing.assert_close(p.grad, t + s + o * min(1.0, 0.5 * float(t.norm() / o.norm())))
    assert all(p.grad is None for p in student.fc.parameters())


def test_without_the_task_there_is_nothing_to_be_limited_by(small_pair: Pair) -> None:
    distiller = Distiller(small_pair[0], None, [Limited()], task_weight=0, example=EXAMPLE)
    out = distiller(*batch())
    parameters = list(distiller.student.parameters())
    wanted = torch.autograd.grad(out.terms["limited"].weighted, parameters, retain_graph=True)
    out.loss.backward()
    torch.testing.assert_close(gradients(distiller), list(wanted))


# Dynamo looks at tensors that it was handed over.
@compiled_whole
@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_a_compiled_step_is_limited_too(small_pair: Pair) -> None:
    distiller = limited(small_pair)
    distiller(*batch()).loss.backward()
    wanted = gradients(distiller)
    torch.compiler.reset()
    compiled = torch.compile(distiller, fullgraph=True, backend="aot_eager")
    (compiled(*batch()).loss / 2).backward()
    torch.testing.assert_close(gradients(distiller), [gradient / 2 for gradient in wanted])


def test_half_precision_is_scaled_inside_of_the_networks(small_pair: Pair) -> None:
    """A gradient that float16 cannot hold unscaled survives, as the scale goes through the networks with it."""
    distiller = Distiller(small_pair[0], None, [Limited(weight=1e-8)], task_weight=1e-7, example=EXAMPLE)
    distiller(*batch()).loss.backward()
    wanted = torch.cat([gradient.flatten() for gradient in gradients(distiller)])
    errors: list[float] = []
    for scale in (1.0, 2.0**14):
        with torch.autocast("cpu", torch.float16):
            out = distiller(*batch())
        (out.loss * scale).backward()
        found = torch.cat([gradient.flatten() for gradient in gradients(distiller)]) / scale
        errors.append(float((found - wanted).norm() / wanted.norm()))
    assert errors[1] < 0.05 < errors[0]


def test_graphs_of_a_batch_keep_to_the_task_in_the_loop_of_anybody(small_pair: Pair) -> None:
    torch.manual_seed(0)
    distiller = Distiller(*small_pair, [MultiHeadGraph(weight=1e4)], example=EXAMPLE)
    distiller.set_epoch(distiller.num_epochs(1) - 1)
    out = distiller(*batch())
    parameters = list(distiller.student.parameters())
    task = torch.autograd.grad(out.terms["ce"].weighted, parameters, retain_graph=True)
    free = torch.autograd.grad(out.terms["mhgd"].weighted, parameters[:-2], retain_graph=True)
    assert all(float(f.norm()) > 10 * float(t.norm()) for f, t in zip(free, task[:-2], strict=True) if t.norm())
    out.loss.backward()
    for found, gradient in zip(gradients(distiller), task, strict=True):
        assert float((found - gradient).norm()) <= 0.51 * float(gradient.norm()) + 1e-6


# ---------------- two processes with a loop of their own around DistributedDataParallel

# Methods, weight of the task, options of the wrapper, epochs.
LOOPS: Mapping[str, tuple[list[Method], float, dict[str, bool], int]] = {
    # The last layer of the student is reached by nothing but its logits.
    "without the task": ([AttentionTransfer()], 0.0, {"find_unused_parameters": True}, 1),
    "phases": ([FitNet(hint_epochs=1), SoftTargets()], 1.0, {"find_unused_parameters": True}, 3),
    "parts first": ([MultiHeadGraph(graph_epochs=2)], 1.0, {"find_unused_parameters": True}, 4),
    "graphs without the task": ([MultiHeadGraph(graph_epochs=1)], 0.0, {"find_unused_parameters": True}, 3),
    "limited": ([Limited(), SoftTargets()], 1.0, {}, 2),
    "static": ([AttentionTransfer(), SoftTargets()], 1.0, {"static_graph": True}, 3),
    "static and limited": ([Limited()], 1.0, {"static_graph": True}, 3),
}


def data(epoch: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(epoch)
    return torch.randn(8, 3, 16, 16, dtype=torch.float64, generator=generator), torch.arange(8) % 5


def make(name: str) -> Distiller:
    methods, task_weight, _, _ = LOOPS[name]
    torch.manual_seed(0)
    # In double precision, as halves of a batch may round a value to the other side of a kink.
    student, teacher = build("resnet8", 5).double(), as_trained(build("resnet14", 5)).double()
    read = any(not isinstance(method, Limited) for method in methods)
    example = torch.empty(2, 3, 16, 16, dtype=torch.float64)
    distiller = Distiller(student, teacher if read else None, methods, task_weight=task_weight, example=example)
    # Batch statistics differ between halves of a batch; everything else must not.
    return distiller.eval()


def train(name: str, distiller: Distiller, module: torch.nn.Module, share: slice) -> dict[str, Tensor]:
    """The loop of the README."""
    optimizer = torch.optim.SGD(distiller.trainable_parameters(), lr=0.01, momentum=0.9, weight_decay=1e-3)
    for epoch in range(LOOPS[name][3]):
        distiller.set_epoch(epoch)
        for step in range(2):
            images, labels = data(10 * epoch + step)
            out = module(images[share], labels[share])
            optimizer.zero_grad()
            out.loss.backward()
            optimizer.step()
    return {name: value for name, value in distiller.state_dict().items() if value.is_floating_point()}


def run(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    found: dict[str, Any] = {}
    for name, (_, _, options, _) in LOOPS.items():
        distiller = make(name)
        module = DistributedDataParallel(distiller, **options)  # pyright: ignore[reportArgumentType]
        found[name] = train(name, distiller, module, slice(4 * rank, 4 * rank + 4))
    torch.save(found, f"{folder}/{rank}.pt")


@pytest.mark.more
@pytest.mark.filterwarnings("ignore:the student learns in evaluation mode")
def test_two_processes_end_as_one_with_the_whole_batch(two_processes: TwoProcesses, tmp_path: Path) -> None:
    two_processes.run(run, str(tmp_path))
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for name in LOOPS:
        distiller = make(name)
        wanted = train(name, distiller, distiller, slice(None))
        for key, value in wanted.items():
            assert torch.equal(first[name][key], second[name][key]), (name, key)
            # Some never move but by rounding, such as a bias under a softmax.
            scale = 1.0 + float(value.norm())
            assert_near(first[name][key], value, steps=1e6, scale=scale, msg=f"{name}: {key}")
