"""edgeplast: let a pretrained vision model keep learning on the device where it runs.

Offline: ``score`` → ``plan`` (or ``compare``) → ``export``, or all in one with ``make_bundle``.
On the device: ``adapt`` → ``evaluate`` → ``deploy`` → ``predict``.
Nothing is imported until it is asked for: a device never loads torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "adapt": "edgeplast.verbs",
    "choose_bits": "edgeplast.compressing",
    "compare": "edgeplast.comparing.contest",
    "deploy": "edgeplast.verbs",
    "deploy_quantized": "edgeplast.compressing",
    "detach": "edgeplast.verbs",
    "evaluate": "edgeplast.evaluating",
    "export": "edgeplast.verbs",
    "export_ort_training": "edgeplast.verbs",
    "forget_replay": "edgeplast_devices.replaying",
    "history": "edgeplast.versions",
    "load_model": "edgeplast.models",
    "keygen": "edgeplast.trust.keys",
    "make_bundle": "edgeplast.pipeline",
    "plan": "edgeplast.verbs",
    "predict": "edgeplast.predicting",
    "prune": "edgeplast.compressing",
    "roll_back": "edgeplast_devices.versioning",
    "score": "edgeplast.verbs",
    "score_bundle": "edgeplast.scoring_bundles",
    "sign": "edgeplast.trust.signing",
    "verify": "edgeplast.trust.signing",
    "Adaptation": "edgeplast.adaptation",
    "Adapter": "edgeplast.adapters",
    "Budget": "edgeplast.budget",
    "Bundle": "edgeplast.bundle",
    "Comparison": "edgeplast.comparison",
    "EdgeplastError": "edgeplast.errors",
    "Evaluation": "edgeplast.evaluation",
    "ImageSet": "edgeplast_devices.images",
    "Learner": "edgeplast_devices.learner",
    "Plan": "edgeplast.plans",
    "ScoreTable": "edgeplast.scores",
    "TrainingArtifacts": "edgeplast.training_artifacts",
    "TrustedKeys": "edgeplast.trust.trusting",
    "TrainingOptions": "edgeplast_devices.options",
    "Version": "edgeplast.versions",
}

__all__ = [*sorted(_HOMES), "__version__"]  # noqa: PLE0604

if TYPE_CHECKING:
    from edgeplast.adaptation import Adaptation as Adaptation
    from edgeplast.adapters import Adapter as Adapter
    from edgeplast.budget import Budget as Budget
    from edgeplast.bundle import Bundle as Bundle
    from edgeplast.comparing.contest import compare as compare
    from edgeplast.comparison import Comparison as Comparison
    from edgeplast.compressing import choose_bits as choose_bits
    from edgeplast.compressing import deploy_quantized as deploy_quantized
    from edgeplast.compressing import prune as prune
    from edgeplast.errors import EdgeplastError as EdgeplastError
    from edgeplast.evaluating import evaluate as evaluate
    from edgeplast.evaluation import Evaluation as Evaluation
    from edgeplast.models import load_model as load_model
    from edgeplast.pipeline import make_bundle as make_bundle
    from edgeplast.plans import Plan as Plan
    from edgeplast.predicting import predict as predict
    from edgeplast.scores import ScoreTable as ScoreTable
    from edgeplast.scoring_bundles import score_bundle as score_bundle
    from edgeplast.training_artifacts import TrainingArtifacts as TrainingArtifacts
    from edgeplast.trust.keys import keygen as keygen
    from edgeplast.trust.signing import sign as sign
    from edgeplast.trust.signing import verify as verify
    from edgeplast.trust.trusting import TrustedKeys as TrustedKeys
    from edgeplast.verbs import adapt as adapt
    from edgeplast.verbs import deploy as deploy
    from edgeplast.verbs import detach as detach
    from edgeplast.verbs import export as export
    from edgeplast.verbs import export_ort_training as export_ort_training
    from edgeplast.verbs import plan as plan
    from edgeplast.verbs import score as score
    from edgeplast.versions import Version as Version
    from edgeplast.versions import history as history
    from edgeplast_devices.images import ImageSet as ImageSet
    from edgeplast_devices.learner import Learner as Learner
    from edgeplast_devices.options import TrainingOptions as TrainingOptions
    from edgeplast_devices.replaying import forget_replay as forget_replay
    from edgeplast_devices.versioning import roll_back as roll_back


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used (PEP 562)."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'edgeplast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
