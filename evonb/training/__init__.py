"""One lifetime: the GPT, base models, what they are trained with, and training itself."""

from evonb import face

__getattr__, __dir__, __all__ = face(__name__, {
    ".gpt": "GPT GPTConfig ModelConfig new_gpt load_published read_published",
    ".base": "Base open_base new_base save_base load_model choose_device BASES",
    ".lifetime": "Lifetime LifetimeConfig Compute",
    ".credit": "CREDITS CreditConfig",
    ".probes": "PROBES Probes",
    ".litter": "Siblings",
    ".architectures": "family_config new_model",
    ".connectome": "matrix_roles",
    ".linear": "fast_linear patched",
})
