"""What models are asked, how answers are scored, and where."""

from evonb import face

__getattr__, __dir__, __all__ = face(__name__, {
    ".tasks": "Task Choice Prompt Item make_task open_test read_record TASKS open_task",
    ".skills": "skill_items",
    ".engine": "Engine",
    ".backends": "InProcess Pool",
    ".fitness": "Fitness Cache",
    ".serving": "serve ServerBackend",
})
