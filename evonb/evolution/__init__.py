"""The search engine over any genome: operators, methods, and the loop that runs and resumes them."""

from evonb import face

__getattr__, __dir__, __all__ = face(__name__, {
    ".search": "evolve compare_methods",
    ".method": "Method MethodConfig register_method METHODS Individual Lineage",
    ".landscape": "SkillLandscape",
    ".archives": "ArchiveConfig Division archive_progress division_of elites_of",
    ".traits": "TRAITS",
    ".operators": "ArraySpace",
    ".pairs": "Poet PairSpace TaskRange",
    ".genetics": "measure_genetics births heritability",
})
