"""One training run as data: what is trained, on what, how. Everything is a frozen dataclass that survives JSON."""

from attention_transfer.experiment.data import Data
from attention_transfer.experiment.experiment import Experiment
from attention_transfer.experiment.optimisation import Optimisation
from attention_transfer.experiment.record import from_json, read_data, read_experiment, to_json
from attention_transfer.experiment.training import Training

__all__ = ["Data", "Experiment", "Optimisation", "Training", "from_json", "read_data", "read_experiment", "to_json"]
