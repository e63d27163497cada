"""Published claims on trial: each a small test that anyone can run again, with controls, cost and verdict."""

from evonb import face

__getattr__, __dir__, __all__ = face(__name__, {
    ".names": "CLAIMS",
    ".trial": "Claim Measured Trial VERDICTS",
    ".court": "try_claim try_claims claim_rows claims_figure",
})
