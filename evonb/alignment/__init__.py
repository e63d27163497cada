"""How human-like models are: reading times and brain responses, with controls and nulls."""

from evonb import face

__getattr__, __dir__, __all__ = face(__name__, {
    ".features": "read ReadConfig open_reader",
    ".encoding": "encode RidgeConfig",
    ".reading": "ReadingTimes score_models",
    ".responses": "Responses",
    ".sources.natural_stories": "natural_stories",
    ".sources.futrell2018": "futrell2018",
    ".sources.reading_tables": "reading_table",
    ".sources.alice": "alice",
    ".sources.tuckute2024": "tuckute2024",
    ".images": "image_responses",
    ".run": "align_run AlignConfig open_data",
})
