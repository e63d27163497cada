"""How human-like models are: reading times and brain responses, with controls and nulls."""

from evonb import face

__getattr__, __dir__, __all__ = face(__name__, {
    ".features": "read ReadConfig open_reader",
    ".encoding": "encode RidgeConfig",
    ".reading": "ReadingTimes BehaviorConfig score_models",
    ".curves": "curve_scores",
    ".responses": "Responses",
    ".sources.natural_stories": "natural_stories",
    ".sources.futrell2018": "futrell2018",
    ".sources.reading_tables": "reading_table",
    ".sources.published": "provo meco geco ucl_self_paced ucl_eye brown babylm_reading n400",
    ".sources.dundee": "dundee",
    ".sources.toy_readers": "ToyReaders toy_passages toy_reading",
    ".sources.alice": "alice",
    ".sources.tuckute2024": "tuckute2024",
    ".sources.assemblies": "pereira2018 fedorenko2016 blank2014",
    ".sources.lebel2023": "lebel2023",
    ".sources.toy_brain": "toy_brain",
    ".sources.resting": "resting_brain",
    ".sources.audiobooks": "narratives petit_prince",
    ".parcels": "Parcels read_parcels near_points",
    ".bids": "bids_runs bids_responses write_bids",
    ".images": "image_responses",
    ".data": "DATA open_data",
    ".run": "align_run AlignConfig candidates open_candidate",
})
