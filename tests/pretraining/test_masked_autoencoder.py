"""Masked autoencoders and their patches."""

import pytest
import timm
import torch
from tests.known import before_blocks
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from attention_transfer.errors import InputError
from attention_transfer.pretraining import MaskedAutoencoder, MaskedAutoencoding
from attention_transfer.pretraining.decoder import normalised, num_seen, patches_of, random_order, take

SMALL = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 0}
SETTINGS = MaskedAutoencoding(decoder_width=16, decoder_heads=2)
EXAMPLE = torch.empty(2, 3, 16, 16)


def encoder(**arguments: object) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(**(SMALL | arguments))  # pyright: ignore[reportArgumentType]


def autoencoder(settings: MaskedAutoencoding = SETTINGS, **arguments: object) -> MaskedAutoencoder:
    return MaskedAutoencoder(encoder(**arguments), settings, example=EXAMPLE)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"reg_tokens": 2},
        {"class_token": False, "global_pool": "avg"},
        {"no_embed_class": True, "pre_norm": True},
        {"dynamic_img_size": True},
        {"pos_embed": "none"},
        {"init_values": 0.1, "qk_norm": True},
    ],
    ids=str,
)
def test_the_encoder_that_sees_everything_is_the_network_itself(arguments: dict[str, object]) -> None:
    plain = encoder(**arguments)
    if before_blocks(plain, torch.zeros(1, 3, 16, 16)).shape[1] != plain.num_prefix_tokens + 16:
        # Older versions of timm leave the class token out, and count it all the same.
        with pytest.raises(InputError, match="has 16 tokens where 1 and one for each of 16 patches are wanted"):
            autoencoder(**arguments)
        return
    model = autoencoder(**arguments).eval()
    images = torch.randn(2, 3, 16, 16)
    everything = torch.arange(16).expand(2, 16)
    torch.testing.assert_close(model.encode(images, everything), model.student.forward_features(images))
    model(images, None, torch.arange(2)).loss.backward()


def test_hidden_patches_do_not_reach_the_encoder() -> None:
    model = autoencoder().eval()
    images = torch.randn(1, 3, 16, 16)
    before = model.encode(images, torch.tensor([[0, 5]]))
    assert before.shape == (1, 3, 24)
    images[:, :, 0:4, 4:8] += 1  # patch 1
    assert torch.equal(model.encode(images, torch.tensor([[0, 5]])), before)
    images[:, :, 4:8, 4:8] += 1  # patch 5
    assert not torch.equal(model.encode(images, torch.tensor([[0, 5]])), before)


@pytest.mark.parametrize("normalise", [True, False])
def test_the_loss_is_the_mean_squared_error_over_hidden_patches(normalise: bool) -> None:
    model = autoencoder(MaskedAutoencoding(decoder_width=16, decoder_heads=2, normalise_patches=normalise)).eval()
    model.set_epoch(3)
    images, index = torch.randn(3, 3, 16, 16), torch.tensor([7, 1, 4])
    out = model(images, None, index)
    order = random_order(index, 16, seed=0, epoch=torch.tensor(3))
    predicted = model.decoder(model.encode(images, order[:, :4]), order)
    assert predicted.shape == (3, 12, 48)
    squares: list[float] = []
    for i in range(3):
        for k, place in enumerate(order[i, 4:].tolist()):
            row, column = divmod(place, 4)
            patch = images[i, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].permute(1, 2, 0).reshape(-1)
            if normalise:
                patch = (patch - patch.mean()) / (patch.var() + 1e-6).sqrt()
            squares += ((predicted[i, k].detach() - patch) ** 2).tolist()
    assert float(out.loss.detach()) == pytest.approx(sum(squares) / len(squares), rel=1e-5)
    assert out.student_logits.shape == (3, 0)
    assert torch.equal(out.terms["reconstruction"].value, out.loss)


def test_where_a_hidden_patch_stands_in_the_order_does_not_matter() -> None:
    model = autoencoder().eval()
    encoded = torch.randn(1, 5, 24)
    order = torch.arange(16)[None]
    swapped = order.clone()
    swapped[0, [4, 15]] = order[0, [15, 4]]
    first, second = model.decoder(encoded, order), model.decoder(encoded, swapped)
    torch.testing.assert_close(first[:, [0, 11]], second[:, [11, 0]])
    torch.testing.assert_close(first[:, 1:11], second[:, 1:11])
    assert not torch.allclose(first[:, 0], first[:, 11])


def test_labels_are_not_looked_at_and_the_index_is_needed() -> None:
    model = autoencoder()
    images, index = torch.randn(2, 3, 16, 16), torch.arange(2)
    assert torch.equal(model(images, torch.tensor([0, 1]), index).loss, model(images, None, index).loss)
    with pytest.raises(ValueError, match="index is needed"):
        model(images)


def test_a_step_lowers_the_loss_and_reaches_every_parameter_but_the_unused() -> None:
    model = autoencoder(MaskedAutoencoding(decoder_width=16, decoder_heads=2, decoder_positions="learned"))
    optimizer = torch.optim.AdamW(model.trainable_parameters(), 1e-3)
    images, index = torch.randn(4, 3, 16, 16), torch.arange(4)
    losses: list[float] = []
    for _ in range(5):
        out = model(images, None, index)
        optimizer.zero_grad()
        model.backward(out)
        optimizer.step()
        losses.append(float(out.loss.detach()))
    assert losses == sorted(losses, reverse=True)
    assert model.unused_parameters() == ()
    assert all(p.grad is not None for p in model.parameters())
    pooled = autoencoder(global_pool="avg")
    assert set(pooled.unused_parameters()) == {"student.fc_norm.weight", "student.fc_norm.bias"}
    assert isinstance(pooled.decoder.norm_encoded, nn.LayerNorm)
    assert isinstance(model.decoder.norm_encoded, nn.Identity)


def test_building_leaves_encoder_and_generator_alone() -> None:
    network = encoder()
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    names = [name for name, _ in network.named_modules()]
    model = MaskedAutoencoder(network, SETTINGS, example=EXAMPLE)
    state = torch.get_rng_state()
    model(torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)), None, torch.arange(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert [name for name, _ in model.student.named_modules()] == names
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_bfloat16_gives_nearly_the_same_loss_in_float32() -> None:
    model = autoencoder()
    images, index = torch.randn(4, 3, 16, 16), torch.arange(4)
    exact = model(images, None, index).loss
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(images, None, index).loss
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0)


@pytest.mark.parametrize(
    ("network", "side", "words"),
    [
        (lambda: timm.create_model("resnet10t", num_classes=0), 16, "vision transformers of timm .*ResNet is none"),
        (lambda: encoder(num_classes=3), 16, r"has a classifier, .* reset_classifier\(0\)"),
        (encoder, 32, r"takes images of 16×16, not 32×32: write img_size=32"),
        (encoder, 18, r"patches of 4×4 do not tile images of 18×18"),
        (lambda: encoder(patch_size=16), 16, "are a single patch"),
    ],
)
def test_what_cannot_be_masked_is_refused(network: object, side: int, words: str) -> None:
    assert callable(network)
    with pytest.raises(ValueError, match=words):
        MaskedAutoencoder(network(), SETTINGS, example=torch.empty(2, 3, side, side))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mask_ratio": 0.0}, "mask_ratio must be 0 < r < 1"),
        ({"mask_ratio": 1.0}, "mask_ratio must be 0 < r < 1"),
        ({"mask_ratio": float("nan")}, "mask_ratio must be 0 < r < 1"),
        ({"decoder_depth": 0}, "decoder_depth must be at least 1"),
        ({"decoder_width": 30, "decoder_heads": 4}, "multiple of decoder_heads"),
        ({"decoder_width": 30, "decoder_heads": 2}, "and of 4"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MaskedAutoencoding(**settings)  # pyright: ignore[reportArgumentType]


# ---------------- patches and masks against loops that follow the words of the paper


def test_patches_are_cut_row_by_row() -> None:
    images = torch.rand(2, 3, 8, 12)
    found = patches_of(images, (4, 3))
    assert found.shape == (2, 8, 36)
    for number, patch in enumerate(found[1]):
        row, column = divmod(number, 4)
        cut = images[1, :, 4 * row : 4 * row + 4, 3 * column : 3 * column + 3]
        torch.testing.assert_close(patch.reshape(4, 3, 3), cut.permute(1, 2, 0), rtol=0, atol=0)


def test_a_normalised_patch_has_no_mean_and_unit_deviation() -> None:
    patches = 3 + 5 * torch.randn(2, 4, 48, dtype=torch.float64)
    for patch, wanted in zip(normalised(patches).reshape(8, 48), patches.reshape(8, 48), strict=True):
        mean = sum(wanted.tolist()) / 48
        variance = sum((value - mean) ** 2 for value in wanted.tolist()) / 47
        torch.testing.assert_close(patch, (wanted - mean) / (variance + 1e-6) ** 0.5)
    flat = normalised(torch.full((1, 1, 48), 7.0))
    assert torch.equal(flat, torch.zeros(1, 1, 48))


@pytest.mark.parametrize(
    ("patches", "ratio", "seen"), [(64, 0.75, 16), (196, 0.75, 49), (4, 0.99, 1), (4, 0.01, 3), (2, 0.5, 1)]
)
def test_at_least_one_patch_is_seen_and_one_hidden(patches: int, ratio: float, seen: int) -> None:
    assert num_seen(patches, ratio) == seen


def test_masks_are_functions_of_seed_epoch_and_image() -> None:
    index = torch.tensor([5, 0, 9])
    epoch = torch.tensor(2)
    order = random_order(index, 16, seed=3, epoch=epoch)
    assert torch.equal(order.sort(dim=1).values, torch.arange(16).expand(3, 16))
    assert torch.equal(random_order(index.flip(0), 16, seed=3, epoch=epoch), order.flip(0))
    assert len({tuple(row) for row in order.tolist()}) == 3
    assert not torch.equal(random_order(index, 16, seed=4, epoch=epoch), order)
    assert not torch.equal(random_order(index, 16, seed=3, epoch=torch.tensor(3)), order)


def test_every_patch_is_seen_equally_often() -> None:
    seen = random_order(torch.arange(4000), 8, seed=0, epoch=torch.tensor(0))[:, :2]
    shares = seen.flatten().bincount(minlength=8) / 4000
    assert (shares - 0.25).abs().max() < 0.03


def test_tokens_are_taken_by_each_images_own_places() -> None:
    tokens = torch.randn(3, 5, 2, dtype=torch.float64, requires_grad=True)
    places = torch.tensor([[4, 0], [1, 1], [2, 3]])
    found = take(tokens, places)
    assert torch.equal(found[1, 0], tokens[1, 1])
    assert torch.equal(found, torch.stack([tokens[i, places[i]] for i in range(3)]))
    assert torch.autograd.gradcheck(lambda t: take(t, places), (tokens,))
