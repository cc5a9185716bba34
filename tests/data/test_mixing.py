"""Mixed batches: what timm makes of them, the same wherever they are resumed."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from attention_transfer import Data
from attention_transfer.data import Batch, DataSet, loader
from attention_transfer.data.pipeline.mixing import Mixing

RECIPE = Mixing(mixup=0.8, cutmix=1.0, label_smoothing=0.1)


def mixed(
    mixing: Mixing, count: int = 8, step: int = 0, rank: int = 0, epoch: int = 0, seed: int = 1
) -> tuple[Tensor, Tensor]:
    """Images that show nothing but their number, one class each."""
    images = torch.arange(float(count))[:, None, None, None].expand(count, 3, 10, 10).clone()
    return mixing(images, torch.arange(count), count, seed=seed, epoch=epoch, step=step, rank=rank)


@pytest.mark.parametrize(
    "mixing", [RECIPE, Mixing(mixup=0.8), Mixing(cutmix=1.0), Mixing(label_smoothing=0.2)], ids=str
)
@pytest.mark.parametrize("count", [8, 7, 2, 3])
def test_labels_are_probabilities(mixing: Mixing, count: int):
    for step in range(20):
        _, labels = mixed(mixing, count, step)
        assert labels.shape == (count, count)
        torch.testing.assert_close(labels.sum(1), torch.ones(count))
        assert (labels >= 0).all()


@pytest.mark.parametrize("mixing", [Mixing(mixup=0.8), Mixing(cutmix=1.0)], ids=["mixup", "cutmix"])
@pytest.mark.parametrize("count", [8, 7])
def test_images_hold_as_much_of_each_other_as_their_labels_say(mixing: Mixing, count: int):
    """The mean of an image is Σ probability·number, for blends and rectangles alike."""
    for step in range(20):
        images, labels = mixed(mixing, count, step)
        torch.testing.assert_close(images.mean((1, 2, 3)), labels @ torch.arange(float(count)))
        assert ((labels > 0).sum(1) <= 2).all()


def test_the_recipe_takes_turns_between_blends_and_rectangles():
    blends = [bool((mixed(RECIPE, step=step)[0][0].unique().numel()) == 1) for step in range(60)]
    assert 15 < sum(blends) < 45


def test_smoothing_alone_leaves_images_and_spreads_probability():
    images, labels = mixed(Mixing(label_smoothing=0.2), count=4)
    assert torch.equal(images[:, 0, 0, 0], torch.arange(4.0))
    torch.testing.assert_close(labels, 0.8 * torch.eye(4) + 0.05)


def test_draws_belong_to_seed_epoch_step_and_rank_and_leave_generators_alone():
    np.random.seed(5)
    expected = np.random.rand()
    np.random.seed(5)
    images, labels = mixed(RECIPE)
    assert np.random.rand() == expected
    again, same = mixed(RECIPE)
    assert torch.equal(images, again)
    assert torch.equal(labels, same)
    for other in ({"step": 1}, {"rank": 1}, {"epoch": 1}, {"seed": 2}):
        assert not torch.equal(labels, mixed(RECIPE, **other)[1])


def test_a_loader_gives_mixed_batches_wherever_it_starts(small_set: DataSet):
    train = loader(small_set.train, small_set, batch_size=8, train=True, mixing=RECIPE, seed=2)
    whole: list[Batch] = list(train.epoch(3))
    resumed: list[Batch] = list(train.epoch(3, start=4))
    assert len(whole) == 7
    for a, b in zip(whole[4:], resumed, strict=True):
        assert a.label is not None
        assert b.label is not None
        assert a.label.shape[1] == 5
        assert torch.equal(a.image, b.image)
        assert torch.equal(a.label, b.label)
    evaluation = loader(small_set.test, small_set, batch_size=8, train=False, mixing=RECIPE)
    assert all(batch.label is not None and batch.label.ndim == 1 for batch in evaluation.epoch(0))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"mixup": 0.0}, r"mixup must be a number α above 0, of Beta\(α, α\), not 0.0"),
        ({"cutmix": float("inf")}, "cutmix must be a number α above 0"),
        ({"label_smoothing": 1.0}, "label_smoothing must be 0 < s < 1, not 1.0"),
    ],
)
def test_numbers_out_of_range_are_refused_where_they_are_given(fields: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        Data(**fields)
