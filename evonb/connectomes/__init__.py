"""Connectomes: evolved, inherited by newborns, and held against controls."""

from evonb import face

__getattr__, __dir__, __all__ = face(__name__, {
    "evonb.training.connectome": "Connectome inherit published_connectome",
    ".wiring": "prune compare",
    ".graph": "wiring_graph load_graph",
    ".statistics": "wiring_statistics measure_run STATISTICS",
    ".arms": "ARMS Arm find_arm",
    ".controls": "control CONTROLS",
    ".settings": "preset ExperimentConfig EvolutionConfig DevelopmentConfig DEFAULT_ARMS",
    ".generations": "load_generation life_folder",
    ".experiments": "experiment develop_run",
    ".transplants": "wiring_parts",
    ".attribution": "attribute",
    ".continual": "learn_tasks",
    ".recombination": "CROSSOVERS MUTATIONS",
    ".space": "ConnectomeSpace FramedWiring",
    ".frames": "aligned",
    ".breeding": "WiringsConfig breed_wirings",
    ".learning": "where_in_learning",
    ".planning": "plan",
})
