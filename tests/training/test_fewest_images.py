"""Batches of too few images for methods that compare images with each other."""

from pathlib import Path

import pytest

from attention_transfer import Correlation, Data, Experiment, Method, Relational, SimilarityPreserving, Training
from attention_transfer.training.distributed import Process
from attention_transfer.training.prepare import prepare


def experiment(method: Method, batch_size: int, images: Path) -> Experiment:
    return Experiment(
        "test",
        "resnet8",
        "resnet14",
        methods=(method,),
        untrained_teacher=True,
        data=Data(f"npz:{images}"),
        training=Training(epochs=1, batch_size=batch_size, threads=1, device="cpu"),
    )


@pytest.mark.parametrize("method", [Relational(), Correlation(form="paper")])
def test_two_images_are_refused_where_nothing_can_be_compared(method: Method, images: Path) -> None:
    with pytest.raises(ValueError, match=f"{method.key} compares the images .* of 2 there .* batch size of at least 3"):
        prepare(experiment(method, 2, images))


@pytest.mark.parametrize("method", [Correlation(), SimilarityPreserving()])
def test_two_images_are_enough_for_others(method: Method, images: Path) -> None:
    assert prepare(experiment(method, 2, images)).distiller.methods == (method,)


def test_the_batches_of_all_processes_count_together(images: Path) -> None:
    prepare(experiment(Relational(), 2, images), Process(0, 2))
