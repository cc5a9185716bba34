"""Patches and masks against loops that follow the words of the paper."""

import pytest
import torch

from attention_transfer.pretraining.decoder import normalised, num_seen, patches_of, random_order, take


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
