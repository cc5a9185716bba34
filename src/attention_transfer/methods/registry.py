"""Every method, a line for each: to add one, add its line. The command finds names and descriptions here too.

>>> METHODS["kd"].__name__
'SoftTargets'
"""

import re
import sys
import traceback
import types
from importlib import import_module
from inspect import isabstract

from attention_transfer.errors import InputError, first_line
from attention_transfer.methods.attention_copy import AttentionCopy as AttentionCopy
from attention_transfer.methods.attention_distillation import AttentionDistillation as AttentionDistillation
from attention_transfer.methods.attention_links.method import AttentionLinks as AttentionLinks
from attention_transfer.methods.attention_transfer import AttentionTransfer as AttentionTransfer
from attention_transfer.methods.class_attention import ClassAttention as ClassAttention
from attention_transfer.methods.contrastive.method import Contrastive as Contrastive
from attention_transfer.methods.correlation import Correlation as Correlation
from attention_transfer.methods.decoupled_soft_targets import DecoupledSoftTargets as DecoupledSoftTargets
from attention_transfer.methods.distillation_token import DistillationToken as DistillationToken
from attention_transfer.methods.feature_distillation import FeatureDistillation as FeatureDistillation
from attention_transfer.methods.fitnet import FitNet as FitNet
from attention_transfer.methods.gradient_attention import GradientAttention as GradientAttention
from attention_transfer.methods.method import Method
from attention_transfer.methods.multi_head_graph.method import MultiHeadGraph as MultiHeadGraph
from attention_transfer.methods.overhaul import Overhaul as Overhaul
from attention_transfer.methods.relational import Relational as Relational
from attention_transfer.methods.review import Review as Review
from attention_transfer.methods.similarity_preserving import SimilarityPreserving as SimilarityPreserving
from attention_transfer.methods.soft_targets import SoftTargets as SoftTargets

METHODS: dict[str, type[Method]] = {
    found.key: found
    for found in list(globals().values())
    if isinstance(found, type) and issubclass(found, Method) and found is not Method
}
"""Classes of methods by the acronym that names them on the command line."""

_OWN: dict[str, type[Method]] = {}


def own_method(path: str) -> type[Method]:
    """A method that somebody wrote outside of this package, from now on known by its import path.

    Its module is imported, which runs it: give only what the user typed, never what stands in a file.

    Args:
        path: `package.module:Class`.

    Raises:
        InputError: there is no such module or class, or the class is no method with a key of its own.
    """
    module, _, name = path.partition(":")
    if not name or not all(module.split(".")):
        raise InputError(f"a method of your own is written package.module:Class, not {path!r}")
    if "" not in sys.path:
        # The module may lie in the current folder; what is installed goes first, whatever else lies there.
        sys.path.append("")
    imported = _imported(module, path)
    if not hasattr(imported, name):
        there = [each for each, kind in vars(imported).items() if isinstance(kind, type) and issubclass(kind, Method)]
        there = [each for each in there if getattr(imported, each).__module__ == imported.__name__]
        has = f"its methods are {', '.join(there)}" if there else "it defines no method"
        raise InputError(f"the module of the method {path!r} has no {name!r}: {has}")
    found = getattr(imported, name)
    if not isinstance(found, type) or not issubclass(found, Method) or found is Method:
        raise InputError(f"{path!r} is no method: give a class that inherits from attention_transfer.Method")
    known = next((key for key, each in METHODS.items() if each is found), None)
    if known is not None:
        raise InputError(f"{path!r} is the method {known!r} of this package: name it by its key")
    if isabstract(found):
        raise InputError(f"{path!r} is no whole method: write its {' and '.join(sorted(found.__abstractmethods__))}")
    key = getattr(found, "key", None)
    taken = {each.key for each in (*METHODS.values(), *_OWN.values()) if each is not found}
    # It is a part of flags, and the first word of the names of its terms.
    if not isinstance(key, str) or not re.fullmatch(r"[A-Za-z][\w-]*", key, re.ASCII) or key in taken:
        raise InputError(
            f"the key of {path!r} must be a name that no other method has, of letters, digits, - and _, not {key!r}"
        )
    _OWN[path] = found
    return found


def _imported(module: str, path: str) -> types.ModuleType:
    try:
        return import_module(module)
    except KeyboardInterrupt:
        raise
    except ImportError as error:
        raise InputError(
            f"the module of the method {path!r} cannot be imported: {first_line(error)}. Give a path from the current "
            "folder or from an installed package"
        ) from error
    except BaseException as error:  # whatever somebody's module ends with; a sys.exit(0) would pass for success
        frame = traceback.extract_tb(error.__traceback__)[-1]
        line = error.lineno if isinstance(error, SyntaxError) else frame.lineno
        file = error.filename if isinstance(error, SyntaxError) else frame.filename
        raise InputError(
            f"the module of the method {path!r} fails while it is imported: {type(error).__name__} "
            f"({first_line(error)}) in line {line} of {file}. Mend it there, or keep what is run as a program under "
            "if __name__ == '__main__'"
        ) from error


def known_keys() -> frozenset[str]:
    """Keys of all methods: those of this package, and those that `own_method` has met."""
    return frozenset(method.key for method in (*METHODS.values(), *_OWN.values()))


def method_named(name: str) -> type[Method] | None:
    """The class of a method by its key, or by its import path where `own_method` has met it; None if there is none."""
    return METHODS.get(name) or _OWN.get(name)


def name_of(method: type[Method]) -> str:
    """How a record names a method: by its key, or by its import path where it is nobody's here."""
    return next((path for path, found in _OWN.items() if found is method), method.key)
