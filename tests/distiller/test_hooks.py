"""Networks hold nothing of a distiller that reads them: between its steps, in copies, in files, and after it."""

import copy
import gc
import io
import pickle
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from tests.trained import as_trained
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from attention_transfer import AttentionCopy, AttentionTransfer, Distiller, Method, SoftTargets
from attention_transfer.capture import scoped_hooks

EXAMPLE = torch.empty(2, 3, 16, 16)
IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(4)
Pair = tuple[nn.Module, nn.Module]


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def transformers(checkpointed: bool = True) -> Pair:
    torch.manual_seed(0)
    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 5}
    student, teacher = (as_trained(timm.create_model("vit_tiny_patch16_224", **sizes)) for _ in range(2))
    student.set_grad_checkpointing(checkpointed)
    return student, teacher


def attached_to(pair: Pair, *methods: Method) -> Distiller:
    return Distiller(*pair, methods or [AttentionTransfer(), SoftTargets()], example=EXAMPLE)


def test_building_again_and_again_piles_nothing_up(small_pair: Pair) -> None:
    for _ in range(3):
        attached_to(small_pair)(IMAGES, LABELS).loss.backward()
    assert hooks(small_pair[0]) == hooks(small_pair[1]) == 0


def test_nothing_keeps_a_distiller_that_was_let_go(small_pair: Pair) -> None:
    distiller = attached_to(small_pair)
    distiller(IMAGES, LABELS).loss.backward()
    gone = weakref.ref(distiller)
    gc.disable()
    try:
        del distiller
        assert gone() is None, "only the collector of cycles could take it"
    finally:
        gc.enable()


def test_a_step_whose_loss_is_alive_leaves_no_hook() -> None:
    student, teacher = transformers()
    distiller = attached_to((student, teacher), AttentionCopy())
    out = distiller(IMAGES, LABELS)
    assert hooks(student) == hooks(teacher) == 0
    out.loss.backward(retain_graph=True)
    assert hooks(student) == hooks(copy.deepcopy(student)) == 0
    out.loss.backward()
    assert hooks(student) == 0


def test_a_backward_pass_that_fails_leaves_no_hook() -> None:
    student, teacher = transformers()
    out = attached_to((student, teacher), AttentionCopy())(IMAGES, LABELS)

    def fail(gradient: Tensor) -> None:
        raise KeyError("of the user")

    student.patch_embed.proj.weight.register_hook(fail)
    with pytest.raises(KeyError):
        out.loss.backward()
    del out
    gc.collect()
    assert hooks(student) == 0


@pytest.mark.parametrize("unknown", ["numbers", "ends"])
def test_a_checkpointed_student_is_recomputed_as_it_ran_where_torch_tells_less(
    unknown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted: dict[str, Tensor] = {}
    for known in (True, False):
        student, teacher = transformers(checkpointed=not known)
        out = attached_to((student, teacher), AttentionCopy())(IMAGES, LABELS)
        with monkeypatch.context() as patch:
            if not known:
                patch.setattr(scoped_hooks, "ask_number" if unknown == "numbers" else "ask_end", None)
            out.loss.backward()
            assert torch.equal(student(IMAGES), copy.deepcopy(student)(IMAGES))
        del out
        assert hooks(student) == 0
        if known:
            wanted = {name: p.grad for name, p in student.named_parameters() if p.grad is not None}
        for name, gradient in wanted.items():
            torch.testing.assert_close(student.get_parameter(name).grad, gradient, msg=name)


def test_a_torch_that_tells_nothing_of_backward_passes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoped_hooks, "ask_number", None)
    monkeypatch.setattr(scoped_hooks, "ask_end", None)
    with pytest.raises(ValueError, match="version of torch"):
        attached_to(transformers(), AttentionCopy())


def deep(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model)


def pickled(model: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(model))


def saved(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def averaged(model: nn.Module) -> nn.Module:
    return AveragedModel(model).module


def smoothed(model: nn.Module) -> nn.Module:
    return ModelEmaV3(model).module


COPIES = [deep, pickled, saved, averaged, smoothed]


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("compiled", [False, True])
def test_copies_of_an_attached_network_are_bare(
    copied: Callable[[nn.Module], nn.Module], compiled: bool, small_pair: Pair
) -> None:
    distiller = attached_to(small_pair)
    step = torch.compile(distiller, backend="eager") if compiled else distiller
    step(IMAGES, LABELS).loss.backward()
    for network in small_pair:
        other = copied(network)
        assert hooks(other) == 0
        assert type(other) is type(network)
        mode = network.training
        torch.testing.assert_close(other.eval()(IMAGES), network.eval()(IMAGES))
        network.train(mode)
    step(IMAGES, LABELS).loss.backward()


WITHOUT_US = """
import sys
for name in ("attention_transfer", "tests"):
    sys.modules[name] = None
import torch
for model in torch.load(sys.argv[1], weights_only=False):
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    print(*model(torch.zeros(2, 3, 16, 16)).shape)
"""


def test_a_saved_student_is_loaded_where_this_package_is_not_installed(tmp_path: Path) -> None:
    student, teacher = transformers()
    distiller = attached_to((student, teacher), AttentionCopy(), AttentionTransfer())
    out = distiller(IMAGES, LABELS)
    out.loss.backward()
    torch.save((student, teacher), tmp_path / "networks.pt")
    run = [sys.executable, "-c", WITHOUT_US, str(tmp_path / "networks.pt")]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["2", "5"] * 2, done.stderr


class Calls:
    """A hook of the user's own that can be copied."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, *args: Any) -> None:
        self.count += 1


@pytest.mark.parametrize("compiled", [False, True])
def test_hooks_and_handles_of_the_user_stay_theirs(compiled: bool, small_pair: Pair) -> None:
    student, _ = small_pair
    layer = student.get_submodule("layer1")
    before, after, order = Calls(), Calls(), list[str]()
    handles = [layer.register_forward_hook(before)]
    distiller = attached_to(small_pair)
    handles.append(layer.register_forward_hook(after))
    handles.append(layer.register_forward_hook(lambda *_: order.append("last")))
    handles.append(layer.register_forward_hook(lambda *_: order.append("first"), prepend=True))
    step = torch.compile(distiller, backend="eager") if compiled else distiller
    tables = [module._forward_hooks for module in student.modules()]
    counted = before.count
    for _ in range(2):
        step(IMAGES, LABELS).loss.backward()
    assert all(module._forward_hooks is table for module, table in zip(student.modules(), tables, strict=True))
    assert order == ["first", "last"] * 2
    assert (before.count - counted, after.count) == (2, 2)
    for handle in handles:
        handle.remove()
    distiller(IMAGES, LABELS)
    assert after.count == 2
    assert hooks(student) == 0


def test_handles_that_are_copied_with_their_network_take_hooks_off_the_copy(small_pair: Pair) -> None:
    student, _ = small_pair
    calls = Calls()
    handle = student.get_submodule("layer2").register_forward_hook(calls)
    distiller = attached_to(small_pair)
    distiller(IMAGES, LABELS)
    for make in (copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))):
        for given in ((student, handle), (handle, student)):
            first, second = make(given)
            twin, theirs = (first, second) if isinstance(first, nn.Module) else (second, first)
            assert hooks(twin) == 1
            theirs.remove()
            assert hooks(twin) == 0
    assert hooks(student) == 1


def attended(distiller: Distiller) -> float:
    return distiller(IMAGES, LABELS).terms["at"].value.item()


def test_what_a_hook_of_the_user_makes_of_a_value_is_what_is_read(small_pair: Pair) -> None:
    student, teacher = small_pair
    plain = attended(attached_to(small_pair, AttentionTransfer()))
    flipped = [student.get_submodule(f"layer{i}").register_forward_hook(lambda m, a, out: out.flip(3)) for i in (1, 2)]
    flipped += [teacher.get_submodule("layer2").register_forward_hook(lambda m, a, out: out.flip(3))]
    distiller = attached_to(small_pair, AttentionTransfer())
    assert attended(distiller) != pytest.approx(plain, rel=1e-3)
    for handle in flipped:
        handle.remove()
    assert attended(distiller) == pytest.approx(plain, rel=1e-5)


class Breaks(nn.Module):
    """What no compiler follows."""

    def forward(self, x: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return x


# Torch's compiler asks itself for it between two pieces.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_a_student_that_is_compiled_in_pieces_is_read_each_time(small_pair: Pair) -> None:
    student, _ = small_pair
    student.get_submodule("layer1").add_module("breaks", Breaks())
    distiller = attached_to(small_pair, AttentionTransfer())
    wanted = distiller(IMAGES, LABELS).loss
    torch.compiler.reset()
    compiled = torch.compile(distiller, backend="eager")
    for _ in range(4):
        torch.testing.assert_close(compiled(IMAGES, LABELS).loss, wanted)
        assert hooks(student) == 0


@pytest.mark.more
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_a_torch_that_keeps_its_hooks_elsewhere_reads_apart_from_compilers(
    small_pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoped_hooks, "TABLES", ("_of_another_version", "_forward_hooks"))
    distiller = attached_to(small_pair)
    wanted = distiller(IMAGES, LABELS).loss
    torch.compiler.reset()
    compiled = torch.compile(distiller, backend="eager")
    for _ in range(2):
        torch.testing.assert_close(compiled(IMAGES, LABELS).loss, wanted)
        assert hooks(small_pair[0]) == 0
