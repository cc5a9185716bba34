"""Methods: what is transferred from a teacher to a student, a file or folder for each."""

from attention_transfer.methods.method import GradientLimit as GradientLimit
from attention_transfer.methods.method import Method as Method
from attention_transfer.methods.method import Needs as Needs
from attention_transfer.methods.method import Observed as Observed
from attention_transfer.methods.method import Reads as Reads
from attention_transfer.methods.method import Request as Request
from attention_transfer.methods.method import Term as Term
from attention_transfer.methods.registry import *  # noqa: F403 - every method class
from attention_transfer.methods.registry import METHODS as METHODS
from attention_transfer.phases import Phase as Phase
from attention_transfer.schedule import Schedule as Schedule
from attention_transfer.settings import SettingError as SettingError
