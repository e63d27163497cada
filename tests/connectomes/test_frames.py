"""Units matched across random starts: a relabelled model computes the same, and is brought back exactly."""

import itertools

import numpy as np
import pytest
import torch

from evonb.connectomes.frames import (
    Matching,
    aligned,
    match_units,
    matched_groups,
    matched_heads,
    random_labels,
    relabelled,
    same_labels,
    similarity_now,
    turned_pairs,
    unit_layout,
)
from evonb.connectomes.space import ConnectomeSpace, FramedWiring
from evonb.connectomes.wiring import prune
from evonb.core import ConnectomeError, InputError, Seeds
from evonb.training.architectures import family_config, new_model
from evonb.training.connectome import Connectome, parameter_shapes
from evonb.training.gpt import GPTConfig, ModelConfig, new_gpt

pytestmark = pytest.mark.usefixtures("one_thread")
CONFIG = GPTConfig(vocab_size=200, n_layer=2, n_head=4, n_embd=32, block_size=16)
FAMILIES = ("gpt", "llama", "mistral", "gpt2", "grouped")
COUPLED = ("qk", "v", "q", "k", "o")  # kinds of units that only change places together


def config_of(family, **more):
    if family == "mistral": more = dict(num_key_value_heads=4) | more  # as many as heads
    sizes = dict(n_layer=2, n_head=4, n_embd=32)
    if family == "grouped": family, sizes["n_head"], more = "llama", 8, dict(num_key_value_heads=2) | more
    return family_config(ModelConfig(family=family, config=more or None, **sizes), 200, 16)


def new(family, seed, config=None):
    c = config or config_of(family)
    model = new_gpt(c, Seeds(seed)) if family == "gpt" else new_model(c, Seeds(seed))
    with torch.no_grad():  # biases and norms are what training could make of them
        for i, p in enumerate(model.parameters()):
            p += 0.1 * torch.randn(p.shape, generator=Seeds(seed).child(i).torch())
    return model.eval(), c


@pytest.mark.parametrize("family", FAMILIES)
def test_a_relabelled_model_computes_the_same(family):
    model, config = new(family, 0)
    other, _ = new(family, 1)
    layout, named = unit_layout(parameter_shapes(model), config), dict(model.named_parameters())
    labels = random_labels(layout, Seeds(2).numpy())
    moved = relabelled(named, layout, labels)
    with torch.no_grad():
        for n, p in other.named_parameters():
            p.copy_(moved[n])
        x = torch.randint(0, 200, (2, 12), generator=Seeds(0).torch())
        assert torch.allclose(model(x).logits, other(x).logits, atol=1e-4)
        for kind in layout.sizes:  # each kind by itself, and none of them is nothing
            alone = relabelled(named, layout, same_labels(layout) | ({} if kind[0] in COUPLED else
                                                                     {kind: labels[kind]}))
            changed = any(not alone[n].equal(p) for n, p in named.items())
            assert changed == (kind[0] not in COUPLED)
    same = relabelled(named, layout, same_labels(layout))
    assert all(same[n].equal(p) for n, p in named.items())


def test_a_label_that_rotary_positions_do_not_allow_changes_the_function():
    model, config = new("gpt", 0)
    other, _ = new("gpt", 1)
    layout = unit_layout(parameter_shapes(model), config)
    labels, size = same_labels(layout), 8
    index = np.arange(32)
    index[[0, 1, 4, 5]] = [1, 0, 5, 4]  # two pairs of the first head change places
    labels["qk", 0] = index, labels["qk", 0][1]
    assert size == 32 // layout.n_head
    with torch.no_grad():
        moved = relabelled(dict(model.named_parameters()), layout, labels)
        for n, p in other.named_parameters():
            p.copy_(moved[n])
        x = torch.randint(0, 200, (2, 12), generator=Seeds(0).torch())
        assert not torch.allclose(model(x).logits, other(x).logits, atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", range(2))
def test_a_relabelled_wiring_is_brought_back_exactly(family, seed):
    model, config = new(family, seed)
    wiring = prune(model, 0.7)
    layout = unit_layout(wiring, config)
    shuffled = Connectome(relabelled(wiring.signs, layout, random_labels(layout, Seeds(seed).numpy())), wiring.shapes)
    mother = FramedWiring(wiring, "hers")
    found = aligned(shuffled, mother, config, n_chance=1)
    space = ConnectomeSpace(dict(mother=mother, guest=found.wiring))
    assert space.distance(*space.start()) == 0 and found.before < 0.3 and abs(found.after - 1) < 1e-6
    assert found.by_chance[0] < 0.6


def test_a_noisy_copy_is_brought_back_to_where_it_was():
    wiring = prune(new("gpt", 0)[0], 0.7)
    layout = unit_layout(wiring, CONFIG)
    space = ConnectomeSpace(dict(a=wiring), frame="f")
    noisy = space.perturb(space.start()[0], 0.3, 1.0, Seeds(0).numpy())  # three of ten wires moved
    shuffled = relabelled(noisy.connectome.signs, layout, random_labels(layout, Seeds(1).numpy()))
    found = aligned(Connectome(shuffled, wiring.shapes), space.start()[0], CONFIG)
    assert found.wiring.connectome.digest() == noisy.connectome.digest()
    assert found.blocks > max(found.blocks_by_chance) + 0.3
    assert np.isclose(found.after, space.similarity(noisy, space.start()[0])) and max(found.by_chance) < 0.5


def test_the_similarity_never_falls_and_is_that_of_the_relabelled():
    a, b = (prune(new("gpt", s)[0], 0.7) for s in range(2))
    layout = unit_layout(a, CONFIG)
    labels, reached = match_units(a, b, layout)
    assert (np.diff(reached) >= -1e-9).all() and reached[-1] > reached[0] + 0.05
    x, y = (np.concatenate([np.ravel(s) for s in signs.values()]).astype(float)
            for signs in (relabelled(a.signs, layout, labels), b.signs))
    assert np.isclose(reached[-1], x @ y / np.sqrt((x @ x) * (y @ y)), atol=1e-6)
    assert np.isclose(similarity_now(Matching(a.signs, b.signs, layout)), reached[0])


def test_heads_and_turns_against_all_orders():
    rng = np.random.default_rng(0)
    layout = unit_layout(prune(new("gpt", 0)[0], 0.7), GPTConfig(vocab_size=200, n_layer=2, n_head=8, n_embd=32))
    likeness = rng.standard_normal((4, 4))  # one head of two pairs, turned each by itself
    index, sign, value = turned_pairs(likeness)
    turns = [np.eye(2), [[0, 1], [-1, 0]], -np.eye(2), [[0, -1], [1, 0]]]
    each = [[(np.array(t) * likeness[np.ix_([p, p + 2], [p, p + 2])]).sum() for t in turns] for p in (0, 1)]
    assert np.isclose(value, sum(map(max, each)))
    assert np.isclose(value, (sign * likeness[np.arange(4), index]).sum())
    qk, v = rng.standard_normal((2, 32, 32))
    (i, s), (j, t) = matched_heads(qk, v, layout)
    assert sorted(i) == sorted(j) == list(range(32)) and (i // 4 == j // 4).all()  # heads stay whole
    reached = (s * qk[np.arange(32), i]).sum() + (t * v[np.arange(32), j]).sum()
    best = np.zeros((8, 8))
    for a, b in itertools.product(range(8), repeat=2):
        part = v[4 * a:4 * a + 4, 4 * b:4 * b + 4]
        best[a, b] = turned_pairs(qk[4 * a:4 * a + 4, 4 * b:4 * b + 4])[2] + max(
            sum(abs(part[r, c]) for r, c in enumerate(o)) for o in itertools.permutations(range(4)))
    assert all(reached >= sum(best[a, o[a]] for a in range(8)) - 1e-6 for o in (rng.permutation(8) for _ in range(500)))


def test_tokens_in_common_do_not_make_blocks_alike():
    a, b = (prune(new("gpt", s)[0], 0.7) for s in range(2))
    layout = unit_layout(a, CONFIG)
    tokens = {n: a.signs[n] for n in ("transformer.wte.weight", "lm_head.weight")}
    mixed = Connectome(b.signs | tokens, a.shapes)  # the one's embedding and head over the other's blocks
    found = aligned(Connectome(relabelled(mixed.signs, layout, random_labels(layout, Seeds(0).numpy())), a.shapes),
                    FramedWiring(a, "hers"), CONFIG)
    assert found.after > max(found.by_chance) + 0.1
    assert abs(found.blocks - np.mean(found.blocks_by_chance)) < 0.02
    same = {n: s for n, s in found.wiring.connectome.signs.items() if n in tokens}
    assert all(s.equal(tokens[n]) for n, s in same.items())


def test_exempt_embeddings_under_a_shared_start():
    a = prune(new("gpt", 0)[0], 0.7, exempt=("embeddings", "head"))
    layout = unit_layout(a, CONFIG)
    labels = random_labels(layout, Seeds(0).numpy()) | dict(residual=same_labels(layout)["residual"])
    shuffled = Connectome(relabelled(a.signs, layout, labels), a.shapes)
    mother = FramedWiring(a, "hers")
    with pytest.raises(ConnectomeError, match="exempt from pruning.*residual=False"):
        aligned(shuffled, mother, CONFIG)
    found = aligned(shuffled, mother, CONFIG, residual=False, n_chance=1)
    assert found.after > 1 - 1e-6 and found.wiring.connectome.digest() == a.digest()


def test_what_cannot_be_aligned_is_refused_with_the_reason():
    mother = FramedWiring(prune(new("gpt", 0)[0], 0.7), "hers")
    with pytest.raises(ConnectomeError, match="no common frame can be found.*siblings"):
        aligned(prune(new("gpt", 1)[0], 0.7), mother, CONFIG)
    config = config_of("qwen3")
    with pytest.raises(ConnectomeError, match="of qwen3 may change places isn't known"):
        unit_layout(parameter_shapes(new_model(config, Seeds(0))), config)
    with pytest.raises(ConnectomeError, match="which units transformer.h.0.strange.weight joins"):
        unit_layout({"transformer.h.0.strange.weight": (4, 4)}, CONFIG)
    with pytest.raises(ConnectomeError, match="units in the residual stream, but the configuration says 64"):
        unit_layout(mother.connectome, GPTConfig(vocab_size=200, n_layer=2, n_head=4, n_embd=64))
    with pytest.raises(InputError, match="config is of type dict"):
        unit_layout(mother.connectome, dict(n_head=4))
    small = prune(new_gpt(GPTConfig(vocab_size=200, n_layer=1, n_head=4, n_embd=32), Seeds(0)), 0.7)
    with pytest.raises(ConnectomeError, match="to align is of another architecture"):
        aligned(small, mother, CONFIG)


def test_groups_and_their_heads_against_all_orders():
    rng, (n, shared, size) = np.random.default_rng(0), (2, 3, 2)
    config = family_config(ModelConfig(1, 6, 12, "llama", dict(num_key_value_heads=2)), 50, 16)
    layout = unit_layout(parameter_shapes(new_model(config, Seeds(0))), config)
    assert (layout.n_head, layout.n_groups, layout.sizes["q", 0], layout.sizes["k", 0]) == (6, 2, 12, 4)
    alike = {x: rng.standard_normal((12, 12) if x in "qo" else (4, 4)) for x in "qkvo"}
    turns = [np.eye(2), np.array([[0, 1], [-1, 0]]), -np.eye(2), np.array([[0, -1], [1, 0]])]
    signed = [np.diag(s) @ np.eye(2)[list(p)] for s in itertools.product((1, -1), repeat=2)
              for p in itertools.permutations(range(2))]

    def part(x, a, b):
        return alike[x][a * size:(a + 1) * size, b * size:(b + 1) * size]

    def best(a, b):
        "Of one group here with one there, by trying everything."
        heads = [(shared * a + i, [shared * b + j for j in p]) for i in (0,) for p in itertools.permutations(range(3))]
        return max(sum((t * part(x, a, b)).sum() + sum((t * part(y, h + i, to[i])).sum() for i in range(shared))
                       for x, y, t in (("k", "q", turn), ("v", "o", value)))
                   for turn in turns for value in signed for h, to in heads)

    labels = matched_groups(alike, layout, 0)
    reached = sum((labels[x, 0][1] * m[np.arange(len(m)), labels[x, 0][0]]).sum() for x, m in alike.items())
    each = [[best(a, b) for b in range(n)] for a in range(n)]
    most = max(sum(each[a][o[a]] for a in range(n)) for o in itertools.permutations(range(n)))
    assert 0.9 * most <= reached <= most + 1e-9  # in turns: near the best of all orders, never above


def test_a_wrong_number_of_heads_is_refused():
    mother = FramedWiring(prune(new("gpt", 0)[0], 0.7), "hers")
    with pytest.raises(ConnectomeError, match="says 2 heads with 2 keys and values, but a wiring notes 4 with 4"):
        aligned(mother.connectome, mother, GPTConfig(vocab_size=200, n_layer=2, n_head=2, n_embd=32, block_size=16))
    bare = FramedWiring(Connectome(mother.connectome.signs, mother.connectome.shapes), "hers")
    with pytest.raises(ConnectomeError, match="Nothing but the configuration says .*sure=True"):
        aligned(bare, bare, CONFIG)
    assert aligned(bare, bare, CONFIG, n_chance=1, sure=True).after == pytest.approx(1)
    shapes = parameter_shapes(new("grouped", 0)[0])
    for more, said in ((dict(num_key_value_heads=4), "says 4 heads of 4 units, but block 0 has 8"),
                       (dict(head_dim=8), "says 8 heads of 8 units, but block 0 has 32")):
        with pytest.raises(ConnectomeError, match=said):
            unit_layout(shapes, config_of("grouped", **more))
