"""Populations of LoRA experts: trained, merged, evolved, and looked at once on sealed tests."""

from evonb import face

__getattr__, __dir__, __all__ = face(__name__, {
    "evonb.training.adapters": "Adapter read_adapter write_adapter",
    ".merges": "merge MERGES register_merge",
    ".advice": "advise",
    ".study": "merge_study merge_odds odds_figure",
    ".spaces": "AdapterSpace CoefficientSpace",
    ".ranks": "RankSpace with_more_rank",
    ".weights": "WeightSpace",
    ".experts": "ExpertsConfig ExpertConfig train_experts load_experts ToyConfig toy_base",
    ".ensemble": "ensemble_accuracy",
    ".breeding": "BreedConfig breed",
})
