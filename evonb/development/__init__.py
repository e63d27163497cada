"""How models develop: what they know when, examined on suites of items, beside floors and ceilings."""

from evonb import face

__getattr__, __dir__, __all__ = face(__name__, {
    ".items": "credits log_odds length_parts",
    ".suites": "SUITES Suite RatedSuite open_suite",
    ".scoring": "ModelScorer NGramScorer answers_of",
    ".judging": "judge_suite curve_of reach",
    ".milestones": "MILESTONES Milestone development_chart run_chart",
    ".acquisition": "word_ages age_correlation ngram_divergence",
    ".evaluation": "evaluate_run EvaluationConfig",
})
