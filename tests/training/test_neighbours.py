"""Votes of nearest neighbours."""

import torch

from attention_transfer.training.evaluate import nearest_classes


def test_votes_are_those_of_a_slow_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    known, asked = torch.randn(40, 6, generator=generator), torch.randn(15, 6, generator=generator)
    labels = torch.randint(4, (40,), generator=generator)
    expected: list[int] = []
    for feature in asked.double():
        cosines = [float(feature @ other / feature.norm() / other.norm()) for other in known.double()]
        votes = [0.0] * 4
        for i in sorted(range(40), key=lambda i: -cosines[i])[:7]:
            votes[int(labels[i])] += float(torch.tensor(cosines[i] / 0.07).exp())
        expected.append(votes.index(max(votes)))
    assert nearest_classes(known, labels, asked, 4, neighbours=7).tolist() == expected


def test_scale_means_nothing_and_few_images_all_vote() -> None:
    known = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.1, 1.0]])
    labels = torch.tensor([2, 0, 0])
    asked = torch.tensor([[100.0, 1.0], [0.0, 0.01]])
    assert nearest_classes(known, labels, asked, 3).tolist() == [2, 0]
