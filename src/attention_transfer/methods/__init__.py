"""Methods: what is transferred from a teacher to a student, a file or folder for each."""

from attention_transfer.capture import Provider as Provider
from attention_transfer.capture.input_gradients import InputGradient as InputGradient
from attention_transfer.methods.method import GradientLimit as GradientLimit
from attention_transfer.methods.method import Method as Method
from attention_transfer.methods.method import Needs as Needs
from attention_transfer.methods.method import Observed as Observed
from attention_transfer.methods.method import Reads as Reads
from attention_transfer.methods.method import Request as Request
from attention_transfer.methods.method import Term as Term
from attention_transfer.methods.registry import *  # noqa: F403 - every method class
from attention_transfer.methods.registry import METHODS as METHODS
from attention_transfer.models.fingerprint import Fingerprint as Fingerprint
from attention_transfer.models.fingerprint import WeightFingerprint as WeightFingerprint
from attention_transfer.models.introspection.class_maps import ClassMapHead as ClassMapHead
from attention_transfer.models.introspection.class_maps import Head as Head
from attention_transfer.models.introspection.pre_activations import BatchNorms as BatchNorms
from attention_transfer.models.introspection.pre_activations import Norm as Norm
from attention_transfer.phases import Phase as Phase
from attention_transfer.schedule import Schedule as Schedule
from attention_transfer.settings import SettingError as SettingError

# The modules beside these are no part of them: one is called `attention_transfer`, as the whole package is. What
# providers give is here for whoever names it, and has too short a name to be everybody's.
__all__ = sorted(  # pyright: ignore[reportUnsupportedDunderAll]
    name for name in globals() if name[:1].isupper() and name not in {"Fingerprint", "Head", "Norm"}
)
