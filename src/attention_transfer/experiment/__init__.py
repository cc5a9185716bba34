"""Configuration of a training run: `Experiment` and its sections, as frozen dataclasses that survive JSON.

>>> from attention_transfer.methods import AttentionTransfer
>>> experiment = Experiment(
...     "mine",
...     student="resnet8",
...     teacher="resnet20",
...     methods=(AttentionTransfer(weight=1000.0),),
...     data=Data(name="cifar100", validation_fraction=0.1),
...     optimisation=Optimisation(learning_rate=0.1, schedule="cosine"),
...     training=Training(epochs=3, batch_size=128),
... )
>>> experiment.epochs
3
>>> recorded = to_json(experiment)
>>> recorded["methods"][0]["name"], recorded["optimisation"]["schedule"]
('at', 'cosine')
>>> from_json(recorded) == experiment
True

A typing error is refused with the name of the field:

>>> from_json(recorded | {"sed": 1})
Traceback (most recent call last):
    ...
attention_transfer.errors.InputError: Experiment has no sed (the experiment); was it written by another version?
"""

from attention_transfer.experiment.data import Data
from attention_transfer.experiment.experiment import Experiment
from attention_transfer.experiment.optimisation import Optimisation
from attention_transfer.experiment.record import from_json, read_data, read_experiment, to_json
from attention_transfer.experiment.training import Training

__all__ = ["Data", "Experiment", "Optimisation", "Training", "from_json", "read_data", "read_experiment", "to_json"]
