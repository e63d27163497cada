"""Connectomes: evolved, inherited by newborns, and held against controls."""

from evonb import face

__getattr__, __dir__, __all__ = face(__name__, {
    "evonb.training.connectome": "Connectome inherit",
    ".wiring": "prune compare",
    ".controls": "control CONTROLS",
    ".settings": "preset ExperimentConfig EvolutionConfig DevelopmentConfig ARMS",
    ".experiments": "experiment develop_run",
    ".planning": "plan",
})
