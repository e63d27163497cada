"""What models are asked, how answers are scored, and where."""

from evonb import face

__getattr__, __dir__, __all__ = face(__name__, {
    ".grading": "Choice Prompt Item",
    ".tasks": "Task make_task open_test read_record TASKS open_task",
    ".skills": "skill_items",
    ".engine": "Engine",
    ".backends": "InProcess Pool",
    ".fitness": "Fitness Cache",
    ".client": "ServerBackend",
    ".serving": "serve",
})
