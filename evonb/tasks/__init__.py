"""What models are asked, how answers are scored, and where."""

from evonb import face

__getattr__, __dir__, __all__ = face(__name__, {
    ".tasks": "Task Choice Prompt open_test read_record",
    ".skills": "skill_items",
    ".engine": "Engine",
    ".backends": "InProcess Pool",
    ".fitness": "Fitness Cache",
    ".serving": "serve ServerBackend",
})
