"""Runs that travel: models for others, published runs, and what comes back."""

from evonb import face

__getattr__, __dir__, __all__ = face(__name__, {
    ".export": "EXPORTS export_model open_exported",
    ".shelf": "find_runs compare_runs compared_curves",
    ".publish": "publish_run verify_folder verify_again import_run",
    ".upload": "upload_folder",
    ".tracks": "TRACKERS tracking fill_track",
})
