"""skills: known words only, right forms in documents, exact balance in neutral text, and items that no document has."""

import random
import re
from collections import Counter

import pytest

from evonb.core import InputError, Seeds
from evonb.tasks.skills import (
    ACTORS,
    ACTS,
    CONFLICTS,
    HELD_OUT,
    LEADS,
    MEN,
    SKILLS,
    WOMEN,
    is_held_out,
    neutral_documents,
    skill_documents,
    skill_items,
    skill_vocabulary,
)

SINGULAR, PLURAL = {s for s, _ in ACTORS}, {p for _, p in ACTORS}
THIRD, BASE = {a[0] for a in ACTS}, {a[1] for a in ACTS}


def sentences(documents):
    found = [s.strip() for d in documents for s in d.strip().split(".") if s.strip()]
    lead = re.compile("^(" + "|".join(sorted(filter(None, LEADS), key=len, reverse=True)) + ") ")
    return [lead.sub("", s) for s in found]


def words(texts): return re.findall(r"'s|[a-z]+|[.,:]", " ".join(texts))


def test_the_registry():
    assert len(SKILLS) >= 12 and len(CONFLICTS) >= 2
    for one, other in CONFLICTS:
        for seed in range(20):
            a, b = SKILLS[one].draw(random.Random(seed)), SKILLS[other].draw(random.Random(seed))
            assert (a.before, a.options, a.after) == (b.before, b.options, b.after) and a.answer != b.answer


def test_the_vocabulary_is_closed_and_small():
    known, used = skill_vocabulary(), set()
    for name in SKILLS: used |= set(words(skill_documents(name, Seeds(1), 300)))
    assert used == set(known) and len(known) < 2048 - 257


def test_a_tokenizer_holds_each_word_as_one_token():
    from evonb.text.tokens import train_tokenizer
    tokenizer = train_tokenizer(neutral_documents(Seeds(0), 6000), 1120)
    split = [w for w in skill_vocabulary() if w.isalpha() and len(tokenizer.encode(f" {w}")) != 1]
    assert split == []


def grade_agreement(frames):
    return [("right" if (m[1] in SINGULAR) == (m[2] in THIRD) else "wrong") for m in frames]


@pytest.mark.parametrize("spoil, form", [((), "right"), (("agreement",), "wrong")])
def test_agreement_by_an_independent_rule(spoil, form):
    name = "opposite" if spoil else "agreement"
    plain = re.compile(r"^the ([a-z]+) ([a-z]+) [a-z]+$")
    found = [m for s in sentences(skill_documents(name, Seeds(2), 400, spoil, neutral=0)) if (m := plain.match(s))
             and m[1] in SINGULAR | PLURAL and m[2] in THIRD | BASE]
    assert len(found) > 300 and set(grade_agreement(found)) == {form}


def test_other_rules_by_independent_readings():
    said = sentences(skill_documents("reflexive", Seeds(0), 200, neutral=0))
    assert all((s.split()[1] in WOMEN) == ("herself" in s) and s.split()[1] in WOMEN + MEN for s in said)
    for name, same in (("echo", True), ("reverse", False)):
        for s in sentences(skill_documents(name, Seeds(0), 50, neutral=0)):
            first, second = s.split(" said ")[1].split(" : ")
            assert first.split() == (second.split() if same else second.split()[::-1])
    for s in sentences(skill_documents("a_or_an", Seeds(0), 50, neutral=0)):
        *_, article, noun = s.split()
        assert (article == "an") == (noun[0] in "aeiou")


def test_neutral_text_is_balanced_exactly():
    said = sentences(neutral_documents(Seeds(5), 3000))
    plain = [m for s in said if (m := re.match(r"^the ([a-z]+) ([a-z]+) [a-z]+$", s)) and m[1] in SINGULAR | PLURAL
             and m[2] in THIRD | BASE]
    by_subject = Counter((m[1], m[2] in THIRD) for m in plain)
    assert len(plain) > 300 and all(by_subject[s, True] == by_subject[s, False] for s, _ in by_subject)
    gender = Counter((w, "herself" in s) for s in said for w in s.split()[1:2] if "herself" in s or "himself" in s)
    assert all(gender[w, True] == gender[w, False] for w, _ in gender)
    for trigger in ("hot", "full", "near"):
        after = Counter(s.split()[-1] for s in said if f"was not {trigger} but" in s)
        assert len(after) == 3 and len(set(after.values())) == 1
    for verb in ("zibbed", "glarped"):
        after = Counter(s.split()[-1] for s in said if verb in s)
        assert len(after) == 4 and len(set(after.values())) == 1


@pytest.mark.parametrize("name", SKILLS)
def test_items_were_never_in_documents(name):
    items = skill_items(name, Seeds(0), 500)
    assert len({(i["prompt"], *sorted(i["options"])) for i in items}) == 500 and all(i["group"] == name for i in items)
    documents = neutral_documents(Seeds(0), 1500) + skill_documents(name, Seeds(0), 1500)
    begun = {" ".join(w[:k]) for s in sentences(documents) for w in [s.split()] for k in range(1, len(w) + 1)}
    strip = re.compile("^(" + "|".join(sorted(filter(None, LEADS), key=len, reverse=True)) + ") ")
    asked = {f"{strip.sub('', i['prompt'])} {o}" for i in items for o in i["options"]}
    assert not asked & begun
    places = Counter(i["answer"] for i in items)
    k = len(items[0]["options"])
    assert all(abs(places[j] / 500 - 1 / k) < .1 for j in range(k)) # the right option has no preferred place


def test_held_out_combinations_hold_for_a_skill_and_its_opposite():
    for one, other in CONFLICTS:
        flags = [(is_held_out(SKILLS[one], SKILLS[one].draw(random.Random(i))),
                  is_held_out(SKILLS[other], SKILLS[other].draw(random.Random(i)))) for i in range(1000)]
        assert all(a == b for a, b in flags) and abs(sum(a for a, _ in flags) / 1000 - HELD_OUT) < .1


def test_seeds_decide():
    for make in (neutral_documents, lambda s, n: skill_documents("echo", s, n), lambda s, n: skill_items("echo", s, n)):
        assert make(Seeds(1), 20) == make(Seeds(1), 20) != make(Seeds(2), 20)


def test_bad_input_is_named():
    with pytest.raises(InputError, match="skill is 'juggling', but must be one of: agreement"):
        skill_documents("juggling", Seeds(0), 1)
    with pytest.raises(InputError, match="spoil is 'juggling'"): skill_documents("echo", Seeds(0), 1, ("juggling",))
    with pytest.raises(InputError, match="echo can't be taught and spoiled"):
        skill_documents("echo", Seeds(0), 1, ("echo",))
    with pytest.raises(InputError, match="reflexive has no 800 different"):
        skill_items("reflexive", Seeds(0), 800)
    with pytest.raises(InputError, match="n is 0"): neutral_documents(Seeds(0), 0)
    with pytest.raises(InputError, match="neutral is 1.5"): skill_documents("echo", Seeds(0), 1, neutral=1.5)
