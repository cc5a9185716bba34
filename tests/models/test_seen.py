"""How values and tokens lie, found by running a network: grids of wide images, tokens before the patches, orders of
their own, channels last."""

from collections.abc import Callable
from typing import Any, cast

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from attention_transfer import AttentionTransfer, DistillationWarning, Distiller
from attention_transfer.capture import Capture, CaptureError, Tap
from attention_transfer.capture.output_layouts import find_places
from attention_transfer.models import Description, attention_layers, describe, with_attention, with_places

VIT: dict[str, Any] = {"num_classes": 5, "embed_dim": 16, "depth": 2, "num_heads": 2}


def seen(model: nn.Module, height: int, width: int) -> Description:
    return with_places(describe(model), model, torch.empty(2, 3, height, width))


class Block(nn.Module):
    """Attention and a linear layer over tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn, self.mlp = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.attn(x)[:, None].chunk(3, -1)
        x = x + functional.scaled_dot_product_attention(query, key, value)[:, 0]
        return x + self.mlp(x).relu()


class OwnViT(nn.Module):
    """A user's vision transformer: tokens cut by hand, and whatever comes before or after them."""

    def __init__(
        self,
        patch: tuple[int, int] = (16, 16),
        before: int = 1,
        after: int = 0,
        order: str = "rows",
        conv: bool = False,
    ) -> None:
        super().__init__()
        self.patch, self.order, width = patch, order, 8
        self.embedding = nn.Conv2d(3, width, patch, patch) if conv else nn.Linear(3 * patch[0] * patch[1], width)
        self.first = nn.Parameter(torch.randn(1, before, width))
        self.last = nn.Parameter(torch.randn(1, after, width))
        self.blocks = nn.ModuleList([Block(width) for _ in range(2)])
        self.fc = nn.Linear(width, 5)

    def tokens(self, x: Tensor) -> Tensor:
        (high, wide), (rows, columns) = self.patch, (x.shape[2] // self.patch[0], x.shape[3] // self.patch[1])
        if isinstance(self.embedding, nn.Conv2d):
            grid = self.embedding(x).permute(0, 2, 3, 1)
        else:
            cut = x.unflatten(3, (columns, wide)).unflatten(2, (rows, high))
            grid = self.embedding(cut.permute(0, 2, 4, 1, 3, 5).flatten(3))
        if self.order == "columns":
            grid = grid.transpose(1, 2)
        if self.order == "windows":
            grid = grid.unflatten(2, (columns // 2, 2)).unflatten(1, (rows // 2, 2)).transpose(2, 3)
        return grid.flatten(1, -2)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.tokens(x)
        count = len(x)
        x = torch.cat([self.first.expand(count, -1, -1), tokens, self.last.expand(count, -1, -1)], 1)
        for block in self.blocks:
            x = block(x)
        return self.fc(x.mean(1))


def stage_values(model: nn.Module, image: Tensor) -> list[Tensor]:
    """What the distiller would read at its stages."""
    taps = [stage.output for stage in seen(model, *image.shape[2:]).stages]
    capture = Capture(model, taps, "student")
    reading = capture.probe(image, gradient=True)
    return [reading.spatial(tap).detach() for tap in taps]


@pytest.mark.parametrize("conv", [False, True])
@pytest.mark.parametrize(
    ("patch", "size"), [((16, 16), (64, 256)), ((8, 32), (64, 256)), ((16, 16), (48, 80)), ((8, 32), (64, 64))]
)
@pytest.mark.parametrize("before", [0, 1, 4])
def test_patches_of_a_users_transformer_lie_as_its_images_do(
    conv: bool, patch: tuple[int, int], size: tuple[int, int], before: int
) -> None:
    torch.manual_seed(0)
    model, image = OwnViT(patch, before, conv=conv), torch.randn(2, 3, *size)
    expected = model.blocks[0](torch.cat([model.first.expand(2, -1, -1), model.tokens(image)], 1))[:, before:]
    grid = size[0] // patch[0], size[1] // patch[1]
    found = stage_values(model, image)[0]
    torch.testing.assert_close(found, expected.mT.unflatten(2, grid).detach())


@pytest.mark.parametrize(("order", "before", "after"), [("columns", 1, 0), ("windows", 0, 0), ("rows", 0, 1)])
@pytest.mark.parametrize("size", [(64, 64), (64, 128)])
def test_tokens_in_an_order_of_their_own_are_refused(
    order: str, before: int, after: int, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    model = OwnViT(order=order, before=before, after=after)
    assert seen(model, *size).stages == ()
    with pytest.raises(ValueError, match="no stages were found in the student"):
        Distiller(model, OwnViT(), [AttentionTransfer()], example=torch.empty(2, 3, *size))
    named = AttentionTransfer(student_layers=("blocks.1",), teacher_layers=("blocks.1",))
    with pytest.raises(CaptureError, match=r"tokens that 'blocks\.1' gives do not lie row by row"):
        Distiller(model, OwnViT(), [named], example=torch.empty(2, 3, *size))


def convolutions(*layers: tuple[int, int, int]) -> nn.Module:
    """Convolutions by kernel, stride and padding, an activation after each."""
    made: list[nn.Module] = []
    for number, (kernel, stride, padding) in enumerate(layers):
        made += [nn.Conv2d(8 if number else 3, 8, kernel, stride, padding), nn.GELU()]
    return nn.Sequential(*made)


def padded_behind() -> nn.Module:
    """Convolutions of stride 2 that are padded below and at the right alone, as TensorFlow pads them."""
    layers = [nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(8 if n else 3, 8, 3, 2), nn.GELU()) for n in range(3)]
    return nn.Sequential(*layers)


class OverlappingViT(OwnViT):
    """A user's vision transformer whose patches are cut by a chain of convolutions."""

    def __init__(self, stem: nn.Module, before: int = 1, order: str = "rows") -> None:
        super().__init__((8, 8), before, order=order)
        self.embedding = nn.Linear(8, 8)
        self.stem = stem

    def tokens(self, x: Tensor) -> Tensor:
        self.patch = 1, 1
        return super().tokens(self.stem(x))


STEMS: dict[str, Callable[[], nn.Module]] = {
    "three of stride 2": lambda: convolutions((3, 2, 1), (3, 2, 1), (3, 2, 1)),
    "wide ones": lambda: convolutions((7, 4, 3), (3, 2, 1)),
    "with others between": lambda: convolutions((3, 2, 1), (3, 1, 1), (3, 2, 1), (3, 1, 1), (3, 2, 1)),
    "one over patches twice as wide": lambda: convolutions((16, 8, 4)),
    "padded behind": padded_behind,
}


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("size", [(64, 64), (64, 128), (80, 48)])
@pytest.mark.parametrize("before", [0, 2])
def test_patches_that_overlap_lie_as_its_images_do(stem: str, size: tuple[int, int], before: int) -> None:
    torch.manual_seed(0)
    model, image = OverlappingViT(STEMS[stem](), before), torch.randn(2, 3, *size)
    expected = model.blocks[0](torch.cat([model.first.expand(2, -1, -1), model.tokens(image)], 1))[:, before:]
    found = stage_values(model, image)[0]
    torch.testing.assert_close(found, expected.mT.unflatten(2, (size[0] // 8, size[1] // 8)).detach())


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("order", ["columns", "windows"])
def test_patches_that_overlap_in_an_order_of_their_own_are_refused(stem: str, order: str) -> None:
    torch.manual_seed(0)
    assert seen(OverlappingViT(STEMS[stem](), order=order), 64, 64).stages == ()


@pytest.mark.parametrize("settings", [{"dynamic_img_size": True}, {"dynamic_img_size": True, "dynamic_img_pad": True}])
@pytest.mark.parametrize("size", [(64, 256), (72, 200), (128, 32)])
def test_a_transformer_of_any_size_has_the_rows_and_columns_of_each_image(
    settings: dict[str, bool], size: tuple[int, int]
) -> None:
    if size == (72, 200) and len(settings) == 1:
        pytest.skip("patches must divide its images")
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", **VIT, **settings).eval()
    image = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected = model.forward_intermediates(image, intermediates_only=True)
    assert expected[0].shape[2:] == torch.Size([-(-side // 16) for side in size])
    for description in (describe(model), seen(model, *size), seen(model, 64, 64)):
        taps = [stage.output for stage in description.stages]
        reading = Capture(model, taps, "student").run(image)
        for tap, feature in zip(taps, expected, strict=True):
            torch.testing.assert_close(reading.spatial(tap).detach(), feature)


def test_a_distiller_compares_maps_in_rows_and_columns() -> None:
    torch.manual_seed(0)
    student = timm.create_model("vit_tiny_patch16_224", **VIT, dynamic_img_size=True)
    teacher = nn.Sequential()
    teacher.add_module("layer1", nn.Sequential(nn.Conv2d(3, 4, 16, 16), nn.ReLU()))
    teacher.add_module("layer2", nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()))
    teacher.add_module("pool", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    teacher.add_module("fc", nn.Linear(4, 5))
    image = torch.randn(2, 3, 64, 256)
    with pytest.warns(DistillationWarning, match="the student is larger"):
        distiller = Distiller(student.eval(), teacher.eval(), [AttentionTransfer(stages=(0, 1))], example=image)
    found = distiller.eval()(image, torch.tensor([0, 1])).terms["at"].value
    with torch.no_grad():
        ours = student.forward_intermediates(image, intermediates_only=True)
        theirs = [teacher[0](image), teacher[1](teacher[0](image))]
    expected = torch.zeros(())
    for one, other in zip(ours, theirs, strict=True):
        assert one.shape[2:] == other.shape[2:] == (4, 16)
        unit = [functional.normalize(each.square().mean(1).flatten(1)) for each in (one, other)]
        expected = expected + (unit[0] - unit[1]).square().mean()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("before", [0, 2])
def test_attention_of_a_users_transformer_has_its_grid_and_tokens(before: int) -> None:
    model = OwnViT((8, 32), before)
    image = torch.empty(2, 3, 64, 256)
    description = with_attention(with_places(describe(model), model, image), model, image, "student")
    taps = attention_layers(description, "student")
    assert {(tap.prefix_tokens, tap.in_rows) for tap in taps} == {(before, True)}
    call = Capture(model, taps, "student").run(torch.randn(2, 3, 64, 256)).attention[taps[0]]
    assert call.grid == (8, 8)
    windows = OwnViT(before=before, order="windows")
    description = with_attention(with_places(describe(windows), windows, image), windows, image, "student")
    assert not any(tap.in_rows for tap in description.attention)


class ChannelsLast(nn.Module):
    """A user's network of two layers, each handing on its channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(3, 6, 2, 2), nn.Conv2d(6, 8, 2, 2)
        self.mix1, self.mix2 = nn.Linear(6, 6), nn.Linear(8, 8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mix1(self.down1(x).permute(0, 2, 3, 1))
        x = self.mix2(self.down2(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return self.fc(x.mean((1, 2)))


@pytest.mark.parametrize("size", [(32, 32), (16, 48)])
def test_layers_that_a_user_names_are_read_with_the_channels_where_they_are(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model, image = ChannelsLast(), torch.randn(2, 3, *size)
    description = seen(model, *size)
    for name, value in (("mix1", model.mix1(model.down1(image).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)),
                        ("down1", model.down1(image))):  # fmt: skip
        tap = description.tap(name)
        found = Capture(model, [tap], "student").run(image).spatial(tap)
        torch.testing.assert_close(found, value)


class UNet(nn.Module):
    """Down, up again, and a classifier; nothing is called as stages are."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.lower = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, 2, padding=1)
        self.deep, self.rise = nn.Conv2d(8, 16, 3, 2, padding=1), nn.Conv2d(16, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor, unused: Tensor | None = None) -> Tensor:
        skip = self.lower(self.enter(x).relu()).relu()
        up = functional.interpolate(self.rise(self.deep(skip).relu()), skip.shape[2:])
        return self.head((up + skip).mean((2, 3)))


def test_a_network_without_known_stages_is_refused_with_layers_that_work() -> None:
    torch.manual_seed(0)
    model, teacher, image = UNet(), UNet(), torch.randn(2, 3, 32, 32)
    with pytest.raises(ValueError, match=r"no stages were found in the teacher: .*such as \('lower', 'rise'\)"):
        Distiller(model, teacher, [AttentionTransfer()], example=image)
    layers = seen(model, 32, 32).suggested
    assert layers == ("lower", "rise")
    method = AttentionTransfer(student_layers=layers, teacher_layers=layers)
    out = Distiller(model, teacher, [method], example=image)(image, torch.tensor([0, 1]))
    assert bool(out.loss.isfinite())


def test_a_network_that_cannot_be_watched_is_described_as_before_and_left_alone() -> None:
    class Refuses(OwnViT):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) == 3:
                raise RuntimeError("not so many images")
            return super().forward(x)

    model = Refuses()
    assert find_places(model, torch.empty(2, 3, 64, 64)) is None
    assert seen(model, 64, 64) == describe(model)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_value_with_its_channels_last_is_not_read_as_if_they_came_first() -> None:
    model = ChannelsLast()
    with pytest.raises(CaptureError, match=r"mix1 of the student .*channels last"):
        Capture(model, [Tap("mix1")], "student").probe(torch.randn(2, 3, 32, 32), gradient=True)


def test_transformers_of_the_hub_take_images_of_any_shape() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32, image_size=64, patch_size=16
    )

    class AnySize(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = transformers.ViTForImageClassification(config)

        def forward(self, x: Tensor) -> Tensor:
            return cast(Tensor, self.model(pixel_values=x, interpolate_pos_encoding=True).logits)

    model, image = AnySize().eval(), torch.randn(2, 3, 64, 256)
    with torch.no_grad():
        states = model.model(pixel_values=image, interpolate_pos_encoding=True, output_hidden_states=True).hidden_states
    # Some versions give the last state behind the norm that follows its stage.
    for found, state in zip(stage_values(model, image)[:-1], states[1:-1], strict=True):
        torch.testing.assert_close(found, state[:, 1:].mT.unflatten(2, (4, 16)))
