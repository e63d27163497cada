"""Text and tokens: where they come from, how they are split without leaks, and kept."""

from evonb import face

__getattr__, __dir__, __all__ = face(__name__, {
    ".toy_english": "toy_documents Grammar",
    ".corpora": "Corpus load_corpus split_corpus CORPORA",
    ".tokens": "CorpusConfig PreparedCorpus prepare open_prepared save_prepared train_tokenizer load_tokenizer",
    ".ngrams": "NGrams",
    ".passages": "Passage split_words join_words",
})
