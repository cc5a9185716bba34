"""Every method, by the acronym that names it on the command line."""

from attention_transfer.methods.attention_copy import AttentionCopy
from attention_transfer.methods.attention_distillation import AttentionDistillation
from attention_transfer.methods.attention_links.method import AttentionLinks
from attention_transfer.methods.attention_transfer import AttentionTransfer
from attention_transfer.methods.class_attention import ClassAttention
from attention_transfer.methods.contrastive.method import Contrastive
from attention_transfer.methods.correlation import Correlation
from attention_transfer.methods.decoupled_soft_targets import DecoupledSoftTargets
from attention_transfer.methods.distillation_token import DistillationToken
from attention_transfer.methods.feature_distillation import FeatureDistillation
from attention_transfer.methods.fitnet import FitNet
from attention_transfer.methods.gradient_attention import GradientAttention
from attention_transfer.methods.method import (
    Fingerprint,
    GradientLimit,
    Head,
    Method,
    Norm,
    Observed,
    Phase,
    Reads,
    Term,
)
from attention_transfer.methods.multi_head_graph.method import MultiHeadGraph
from attention_transfer.methods.overhaul import Overhaul
from attention_transfer.methods.relational import Relational
from attention_transfer.methods.review import Review
from attention_transfer.methods.similarity_preserving import SimilarityPreserving
from attention_transfer.methods.soft_targets import SoftTargets
from attention_transfer.schedule import Schedule
from attention_transfer.settings import SettingError

METHODS: dict[str, type[Method]] = {
    "at": AttentionTransfer,
    "gradient": GradientAttention,
    "cat": ClassAttention,
    "kd": SoftTargets,
    "attention-copy": AttentionCopy,
    "attention-distillation": AttentionDistillation,
    "feature-distillation": FeatureDistillation,
    "attention-links": AttentionLinks,
    "distillation-token": DistillationToken,
    "mhgd": MultiHeadGraph,
    "dkd": DecoupledSoftTargets,
    "fitnet": FitNet,
    "rkd": Relational,
    "sp": SimilarityPreserving,
    "pkt": Correlation,
    "crd": Contrastive,
    "ofd": Overhaul,
    "reviewkd": Review,
}

__all__ = [
    "METHODS",
    "AttentionCopy",
    "AttentionDistillation",
    "AttentionLinks",
    "AttentionTransfer",
    "ClassAttention",
    "Contrastive",
    "Correlation",
    "DecoupledSoftTargets",
    "DistillationToken",
    "FeatureDistillation",
    "Fingerprint",
    "FitNet",
    "GradientAttention",
    "GradientLimit",
    "Head",
    "Method",
    "MultiHeadGraph",
    "Norm",
    "Observed",
    "Overhaul",
    "Phase",
    "Reads",
    "Relational",
    "Review",
    "Schedule",
    "SettingError",
    "SimilarityPreserving",
    "SoftTargets",
    "Term",
]
