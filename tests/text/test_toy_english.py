"""toy_english against a parser of its own, which knows the words and the grammar's prose description only."""

import re

import pytest

from evonb.core import InputError, Seeds
from evonb.text.toy_english import (
    ADJECTIVES,
    ADVERBS,
    NAMES,
    PHENOMENA,
    PREPOSITIONS,
    minimal_pairs,
    toy_documents,
    toy_lexicon,
)

DETERMINERS = {**dict.fromkeys("a an this that every each".split(), {0}), "the": {0, 1},
               **dict.fromkeys("these those many some two three".split(), {1})}
PRONOUNS = dict(he={0}, she={0}, it={0}, they={1}, we={1})
BE = {"is": {0}, "was": {0}, "are": {1}, "were": {1}}
NOUNS, VERBS = {}, {}
for noun in toy_lexicon()["nouns"]: NOUNS[noun.singular], NOUNS[noun.plural] = (noun, 0), (noun, 1)
for verb in toy_lexicon()["verbs"]:
    VERBS[verb.third], VERBS[verb.base], VERBS[verb.past] = (verb, {0}), (verb, {1}), (verb, {0, 1})


class Ungrammatical(Exception): pass


class Parser:
    "Recursive descent; `uses` lists where each word with a kind stood: (word, construction, determiner or verb form)."

    def __init__(self, sentence):
        words = sentence[0].lower() + sentence[1:].removesuffix(".").replace(",", " ,")
        self.words, self.at, self.uses = words.split(), 0, []
        if not sentence.endswith("."): raise Ungrammatical("no full stop")

    def peek(self): return self.words[self.at] if self.at < len(self.words) else ""

    def next(self, allowed=None):
        word = self.peek()
        if allowed is not None and word not in allowed: raise Ungrammatical(f"{word!r} in {self.words}")
        self.at += 1
        return word

    def agree(self, numbers, subject):
        if subject not in numbers: raise Ungrammatical(f"agreement at {self.at} in {' '.join(self.words)}")

    def sentence(self):
        self.clause()
        if self.peek() == ",":
            self.next(), self.next(("and", "but", "while"))
            self.clause()
        if self.at != len(self.words): raise Ungrammatical(f"{self.peek()!r} left in {self.words}")
        return self

    def phrase(self, place):
        determiner = self.next(DETERMINERS)
        if determiner in ("a", "an") and (determiner == "an") != (self.peek()[:1] in "aeiou"):
            raise Ungrammatical(f"a or an before {self.peek()}")
        adjective = self.next() if self.peek() in ADJECTIVES else None
        noun, number = NOUNS[self.next(NOUNS)]
        self.agree(DETERMINERS[determiner], number)
        self.uses.append((noun, place, determiner, adjective))
        return number

    def verb(self, number, transitive, place):
        verb, numbers = VERBS[self.next(VERBS)]
        if verb.transitive not in transitive: raise Ungrammatical(f"{verb.base} has the wrong objects")
        self.agree(numbers, number)
        self.uses.append((verb, place, "past" if len(numbers) == 2 else "present", None))
        return verb

    def modifier(self, number):
        if self.peek() in PREPOSITIONS:
            self.next(), self.phrase("pp")
        elif self.peek() == "that":
            self.next()
            if self.peek() in VERBS: self.verb(number, [True], "relative"), self.phrase("relative")
            else: self.verb(self.phrase("relative"), [True], "relative")
        else: return False
        return True

    def mark_modified(self, start):
        noun, _, determiner, adjective = self.uses[start]
        self.uses[start] = (noun, "modified", determiner, adjective)

    def clause(self):
        start = len(self.uses)
        if self.peek() == "there":
            self.next()
            numbers = BE[self.next(BE)]
            self.agree(numbers, self.phrase("existential"))
            if self.modifier(0): self.mark_modified(start)
            return
        kind, number = self.subject(start)
        self.predicate(number, kind)

    def subject(self, start):
        if self.peek() in PRONOUNS: return "pronoun", min(PRONOUNS[self.next()])
        if self.peek().capitalize() in NAMES: return self.next() and "name", 0
        number = self.phrase("subject")
        if self.modifier(number): self.mark_modified(start)
        elif self.peek() == "and":
            self.next(), self.phrase("coordinated"), self.mark_modified(start)
            return "coordinated", 1
        return "noun", number

    def predicate(self, number, kind):
        if self.peek() in BE:
            self.agree(BE[self.next()], number)
            self.uses.append((None, "copula", self.next(ADJECTIVES), None))
            return
        if self.verb(number, [True, False], kind).transitive:
            start = len(self.uses)
            if self.modifier(self.phrase("object")): self.mark_modified(start)
            return
        if self.peek() == "and": self.next(), self.verb(number, [False], "coordinated")
        if self.peek() in ADVERBS: self.next()


def sentences(n_bytes=300_000, seed=0):
    return [s for d in toy_documents(n_bytes, Seeds(seed)) for s in re.findall(r"[^.]+\.", d.strip())]


def test_every_sentence_parses_and_agrees():
    parsed = [Parser(s.strip()).sentence() for s in sentences()]
    assert len(parsed) > 5000
    places = {place for p in parsed for _, place, _, _ in p.uses}
    assert places >= {"subject", "object", "pp", "relative", "coordinated", "existential", "modified", "copula"}


@pytest.mark.parametrize("wrong", [
    "The dog sleep.", "These dog slept.", "The dogs near the cat sleeps.", "A owl slept.",
    "The dogs that the cat see slept.", "The dog and the cat sleeps.", "The dog sees."])
def test_the_parser_refuses_what_is_wrong(wrong):
    with pytest.raises(Ungrammatical): Parser(wrong).sentence()


def test_held_out_words_stand_in_simple_constructions_only():
    seen = set()
    for sentence in sentences(seed=1):
        for clause in re.split(", (?:and|but|while) ", sentence.strip().removesuffix(".")):
            uses = Parser(clause + ".").sentence().uses
            tenses = {how for word, _, how, _ in uses if hasattr(word, "past")}
            for word, place, how, adjective in uses:
                if word is None or not word.held_out: continue
                seen.add(word)
                if hasattr(word, "past"): assert place == "pronoun", clause
                else:
                    assert how in ("a", "an", "the", "every", "many", "some", "two", "three") and adjective is None
                    assert place in ("subject", "object", "existential") and "present" not in tenses, clause
    held = [w for kind in toy_lexicon().values() for w in kind if w.held_out]
    assert seen == set(held) # the text does use each of them


def test_a_fifth_is_held_out():
    for words in toy_lexicon().values():
        assert sum(w.held_out for w in words) == pytest.approx(len(words) / 5, abs=1)


def test_pairs_are_right_by_the_parser():
    pairs = minimal_pairs(60)
    assert {p["phenomenon"] for p in pairs} == set(PHENOMENA) and len(pairs) == 60 * len(PHENOMENA)
    for p in pairs:
        uses = Parser(p["sentence_good"]).sentence().uses
        assert all(word.held_out for word, *_ in uses), p
        with pytest.raises(Ungrammatical): Parser(p["sentence_bad"]).sentence()
        assert p["sentence_good"].startswith(f"{p['one_prefix_prefix']} {p['one_prefix_word_good']}")
        assert p["sentence_bad"].startswith(f"{p['one_prefix_prefix']} {p['one_prefix_word_bad']}")


def test_neither_number_is_always_right():
    for name in set(PHENOMENA) - {"agreement_coordination"}:
        good = [p["one_prefix_word_good"] for p in minimal_pairs(40, phenomena=[name])]
        plural = sum(NOUNS[w][1] if w in NOUNS else VERBS[w][1] == {1} for w in good)
        assert 12 <= plural <= 28, name


def test_attractors_have_the_other_number():
    for p in minimal_pairs(40, phenomena=["agreement_across_pp", "agreement_across_object_relative"]):
        numbers = [NOUNS[w.lower()][1] for w in p["one_prefix_prefix"].split() if w.lower() in NOUNS]
        assert len(numbers) == 2 and numbers[0] != numbers[1]


def test_text_and_pairs_are_deterministic():
    assert toy_documents(50_000, Seeds(3)) == toy_documents(50_000, Seeds(3)) != toy_documents(50_000, Seeds(4))
    assert minimal_pairs(5, Seeds(3)) == minimal_pairs(5, Seeds(3)) != minimal_pairs(5, Seeds(4))
    assert toy_documents(1) == toy_documents(400)[:1]


def test_bad_arguments():
    with pytest.raises(InputError, match="agreement_simple"): minimal_pairs(5, phenomena=["island"])
    with pytest.raises(InputError, match="n_bytes is 0"): toy_documents(0)
