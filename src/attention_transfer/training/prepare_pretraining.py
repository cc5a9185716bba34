"""Preparation of a pre-training, with every error before the first step."""

from dataclasses import replace

import torch
from timm.models.vision_transformer import VisionTransformer

from attention_transfer.experiment import Experiment
from attention_transfer.files.env_paths import expand
from attention_transfer.models import check_channels, describe, open_model
from attention_transfer.pretraining import MaskedAutoencoder
from attention_transfer.training.device import choose_arithmetic
from attention_transfer.training.distributed import Process
from attention_transfer.training.optim import make_optimizer
from attention_transfer.training.prepare import Prepared, check_networks, load_data, training_batches


def prepare_pretraining(experiment: Experiment, process: Process | None = None) -> Prepared:
    """Load the data, build or open the encoder without its last layer, and prove that it can be pre-trained.

    Raises:
        ValueError: for anything that does not fit, before training.
    """
    process = process or Process()
    assert experiment.pretraining is not None
    # What is quick to see comes before what takes long to load.
    check_networks(experiment)
    dataset = load_data(experiment.data, experiment.seed, labelled=False)
    torch.manual_seed(experiment.seed)
    opened = open_model(expand(experiment.student), dataset.num_classes, image_size=dataset.image_size)
    check_channels(opened.module, experiment.student, (dataset.image_size, dataset.image_size))
    if isinstance(opened.module, VisionTransformer):
        opened.module.reset_classifier(0)
        opened = replace(opened, num_classes=0, description=describe(opened.module))
    module = MaskedAutoencoder(
        opened.module,
        experiment.pretraining,
        example=torch.empty(2, 3, dataset.image_size, dataset.image_size),
        seed=experiment.seed,
    )
    make_optimizer(module.trained_modules(), experiment.optimisation)
    place = choose_arithmetic(experiment.training, opened.description.convolutional, process.local_rank)
    module.to(place.device).to(memory_format=place.memory_format)  # pyright: ignore[reportCallIssue]
    notes = (
        *opened.notes,
        f"{module.num_seen} of {module.num_patches} patches are seen",
    )
    train = training_batches(experiment, dataset, place, process)
    return Prepared(dataset, place, module, opened, None, train, experiment.data.num_workers, notes)
