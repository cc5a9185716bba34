import pytest
import torch

from attention_transfer.data.pipeline.order import Plan, permutation


def test_every_epoch_has_its_own_order_of_all_images():
    orders = [permutation(1000, seed=seed, epoch=epoch) for seed in (0, 1) for epoch in (0, 1)]
    for order in orders:
        assert (order.sort().values == torch.arange(1000)).all()
    for i, order in enumerate(orders):
        for other in orders[:i]:
            assert (order == other).sum() < 10
    assert (permutation(1000, seed=1, epoch=1) == orders[3]).all()


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_processes_share_the_batches_of_a_single_one(world_size: int):
    single = Plan(1000, 24, train=True, seed=5).batches(2)
    ranks = [Plan(1000, 24 // world_size, True, 5, rank, world_size).batches(2) for rank in range(world_size)]
    assert len(single) == 42
    for whole, *parts in zip(single, *ranks, strict=True):
        assert whole.sort().values.tolist() == torch.cat(parts).sort().values.tolist()


@pytest.mark.parametrize(("num_images", "batches"), [(64, 2), (65, 2), (66, 3), (33, 1), (2, 1), (1, 0)])
def test_training_keeps_a_last_batch_of_two(num_images: int, batches: int):
    plan = Plan(num_images, 32, train=True)
    assert plan.num_batches == batches == len(plan.batches(0))


def test_processes_never_differ_in_the_number_of_training_batches():
    for num_images in range(16, 40):
        plans = [Plan(num_images, 4, True, 0, rank, 3) for rank in range(3)]
        assert len({plan.num_batches for plan in plans}) == 1
        assert min(len(batch) for plan in plans for batch in plan.batches(0)) >= 2


def test_evaluation_keeps_everything_in_order():
    for num_images in (1, 7, 8, 9):
        assert torch.cat(Plan(num_images, 4, train=False).batches(3)).tolist() == list(range(num_images))
        shares = [Plan(num_images, 2, False, 0, rank, 2) for rank in range(2)]
        images = [batch for plan in shares for batch in plan.batches(0)]
        assert torch.cat(images).sort().values.tolist() == list(range(num_images))
        assert all(plan.num_batches == len(plan.batches(0)) for plan in shares)
        assert min(len(batch) for batch in images) > 0
