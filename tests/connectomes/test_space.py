"""Wirings as genomes: packed losslessly, told apart, mixed in one frame only, pruned in theirs."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evonb.connectomes.recombination import CROSSOVERS, MUTATIONS
from evonb.connectomes.space import (
    ConnectomeSpace,
    FramedWiring,
    diversity_by_matrix,
    frame_of,
    inherited_from,
    start_frame,
)
from evonb.connectomes.wiring import prune
from evonb.core import ConnectomeError, DamagedFileError, InputError, Seeds
from evonb.training.connectome import Connectome, inherit
from evonb.training.gpt import GPTConfig, new_gpt

CONFIG = GPTConfig(vocab_size=40, n_layer=2, n_head=2, n_embd=8, block_size=16)


def sibling(i, fraction=0.7, start=0, **info):
    "One start and a life of its own."
    model = new_gpt(CONFIG, Seeds(start))
    with torch.no_grad():
        for p in model.parameters():
            p += 0.01 * torch.randn(p.shape, generator=Seeds(i).torch())
    return prune(model, fraction, **info)


@pytest.fixture(scope="module")
def space():
    return ConnectomeSpace({f"sibling {i}": sibling(i) for i in range(3)}, frame="one start")


def small(draw_signs, shape, frame="f"):
    signs = {"h.0.mlp.c_fc.weight": torch.tensor(draw_signs, dtype=torch.int8).reshape(shape)}
    return FramedWiring(Connectome(signs, {"h.0.mlp.c_fc.weight": shape}, 0.03, dict(note="x")), frame)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_packing_is_lossless(data):
    shape = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 9)))
    n = shape[0] * shape[1]
    values = data.draw(st.lists(st.sampled_from([-1, 0, 1]), min_size=n - 1, max_size=n - 1))
    a = small([1, *values], shape)
    back = ConnectomeSpace(dict(a=a)).unpack(ConnectomeSpace(dict(a=a)).pack(a))
    assert back.digest() == a.digest() and back.frame == "f" and not back.difference
    assert back.connectome.info == a.connectome.info and back.connectome.magnitude == 0.03
    assert all(back.connectome.signs[k].equal(s) for k, s in a.connectome.signs.items())


def test_digest_tells_signs_and_frames_apart(space):
    a, b, _ = space.start()
    noted = dataclasses.replace(a.connectome, info=dict(whatever=1))
    assert FramedWiring(noted, a.frame).digest() == a.digest()  # notes aren't the genome
    assert len({a.digest(), b.digest(), FramedWiring(a.connectome, "else").digest()}) == 3


def test_distance_and_similarity_against_plain_numpy(space):
    a, b, _ = space.start()
    x, y = (np.concatenate([s.numpy().ravel() for s in g.connectome.signs.values()]).astype(int) for g in (a, b))
    assert space.distance(a, b) == (x != y).mean() > 0 == space.distance(a, a)
    assert np.isclose(space.similarity(a, b), x @ y / np.sqrt((x @ x) * (y @ y)))
    rest = space.combine([a, a], [1, -1])
    assert rest.difference and np.isnan(space.similarity(a, rest))


@pytest.mark.parametrize("name", ["linear", *CROSSOVERS])
def test_a_child_is_decided_by_its_generator_or_by_its_parents(space, name):
    parents = space.start()
    g = [torch.Generator().manual_seed(s) for s in (1, 1, 2)]
    one, same, other = (space.merge(parents, [3, 2, 2], name, x).digest() for x in g)
    assert one == same and (one != other or name in ("vote", "block", "matrix"))
    assert space.merge(parents, None, name).digest() == space.merge(parents, None, name).digest()
    child = space.merge(parents, None, name)
    assert child.frame == space.frame and child.connectome.info["frame"] == space.frame
    assert child.connectome.matrix_density() == parents[0].connectome.matrix_density()
    assert space.merge(parents, [0, 1, 0], name).digest() == space.digest(parents[1])


def test_sums(space):
    a, b, c = space.start()
    assert space.combine([a], [1.7]) is a and space.combine([a, b], [1, 0]) is a
    mean = space.combine([a, b, c], np.full(3, 1 / 3))
    assert mean.digest() == space.combine([a, b, c], np.full(3, 1 / 3)).digest()
    for n, s in mean.connectome.signs.items():
        x, y, z = (g.connectome.signs[n] for g in (a, b, c))
        agreed = (x == y) & (y == z) & (x != 0)
        assert (s[agreed] == x[agreed]).all() and s.count_nonzero() == x.count_nonzero()
    velocity = space.combine([b, a], [1, -1])
    assert velocity.difference and space.unpack(space.pack(velocity)).difference
    assert not any((s[a.connectome.signs[n] == b.connectome.signs[n]] != 0).any()
                   for n, s in velocity.connectome.signs.items())  # nothing where they are the same
    moved = space.combine([a, velocity], [1, 0.5])
    assert not moved.difference and moved.connectome.matrix_density() == a.connectome.matrix_density()
    assert 0 < space.distance(moved, a) and space.distance(moved, b) < space.distance(a, b)
    still = space.combine([a, space.combine([a, a], [1, -1])], [1, 0.5])
    assert still.digest() == a.digest()  # at rest
    nothing = space.combine([a, b], [0, 0])
    assert nothing.difference and not nothing.connectome.n_live


def test_mutations_by_name_and_by_share(space):
    a = space.start()[0]
    for name in MUTATIONS:
        mutant = ConnectomeSpace(space.parents, mutation=name).perturb(a, 0.5, 1.0, Seeds(0).numpy())
        assert mutant.digest() != a.digest() and mutant.connectome.n_live == a.connectome.n_live
    flips = ConnectomeSpace(space.parents, mutation=dict(flip=1.0, move=0.0))
    changed = flips.perturb(a, 1.0, 7.0, Seeds(0).numpy())  # a scale of 1 or more is all
    assert all(s.equal(-changed.connectome.signs[n]) for n, s in a.connectome.signs.items())
    assert space.perturb(a, 0.5, 0.0, Seeds(0).numpy()).digest() == a.digest()
    half = space.perturb(a, 0.5, 0.4, Seeds(0).numpy())
    assert abs(space.distance(a, half) / (2 * 0.2 * a.connectome.density) - 1) < 0.2


def test_what_parents_note_alike_is_kept():
    about = dict(vocabulary="v", corpus="c", deal=dict(seed=4), generation=3)
    a, b = sibling(0, **about), sibling(1, **about | dict(corpus="d"))
    space = ConnectomeSpace(dict(a=a, b=b))
    made = space.merge(space.start())
    assert made.connectome.info == dict(vocabulary="v", deal=dict(seed=4), heads=[2, 2], frame=space.frame)


def test_frames_by_start_seed_and_tokenizer():
    model, other = new_gpt(CONFIG, Seeds(0)), new_gpt(CONFIG, Seeds(1))
    assert start_frame(model) == start_frame(new_gpt(CONFIG, Seeds(0))) != start_frame(other)
    assert start_frame(model) != start_frame(model, "a tokenizer")
    frames = [frame_of(sibling(0, deal=dict(seed=s), vocabulary=v, lineage=n, generation=g))
              for s, v, n, g in ((1, "v", 0, 0), (1, "v", 0, 3), (2, "v", 0, 0), (1, "w", 0, 0), (1, "v", 1, 0))]
    assert frames[0] == frames[1] and len(set(frames)) == 4
    assert frame_of(sibling(0)) is None and frame_of(sibling(0, frame="here", deal=dict(seed=1))) == "here"


def test_pruning_a_grown_parent(space):
    a = space.start()[0]
    grown = inherit(new_gpt(CONFIG, Seeds(5)), a.connectome)
    with torch.no_grad():
        for p in grown.parameters(): p *= torch.randn(p.shape, generator=Seeds(1).torch())  # some signs turn
    heir = space.pruned(a, grown, 0.2)
    params = dict(grown.named_parameters())
    for n, s in heir.connectome.signs.items():
        born = a.connectome.signs[n]
        assert ((s != 0) <= (born != 0)).all() and (s * params[n].detach().sign() >= 0).all()
        assert int(s.count_nonzero()) == int(born.count_nonzero()) - int(0.2 * int(born.count_nonzero()))
    assert heir.frame == a.frame and heir.connectome.info["frame"] == a.frame
    mixed = space.merge([a, heir])  # a line's generations can be crossed
    assert heir.connectome.n_live < mixed.connectome.n_live < a.connectome.n_live


def test_diversity_and_origin_against_plain_numpy(space):
    genomes = space.start()
    found = diversity_by_matrix(genomes)
    n = "lm_head.weight"
    pairs = [(a.connectome.signs[n].numpy(), b.connectome.signs[n].numpy()) for i, a in enumerate(genomes)
             for b in genomes[:i]]
    row = found.sel(matrix=n)
    assert np.isclose(row.differ, np.mean([(a != b).mean() for a, b in pairs]))
    assert np.isclose(row.jaccard, np.mean([((a != 0) & (b != 0)).sum() / ((a != 0) | (b != 0)).sum()
                                            for a, b in pairs]))
    assert np.isclose(row.sign_agreement, np.mean([(a == b)[(a != 0) & (b != 0)].mean() for a, b in pairs]))
    a, b, _ = genomes
    took = inherited_from(space.merge([a, b]).connectome, a.connectome, b.connectome)
    assert not took.neither.any() and (took.both + took.mother + took.father).sum() == a.connectome.n_live
    mutant = space.perturb(a, 0.2, 1.0, Seeds(0).numpy()).connectome
    took = inherited_from(mutant, a.connectome, a.connectome)
    assert took.neither.sum() == took.lost.sum() > 0 and not took.mother.any()


def test_parents_that_cannot_be_mixed(space):
    a, b, _ = space.start()
    with pytest.raises(InputError, match="There are no parents"):
        ConnectomeSpace({})
    with pytest.raises(InputError, match="There are no parents"):
        ConnectomeSpace([a, b])
    with pytest.raises(InputError, match="x is of type str, but must be a FramedWiring"):
        space.check("x", "x")
    with pytest.raises(ConnectomeError, match="random start b was evolved|which random start a was"):
        ConnectomeSpace(dict(a=sibling(0), b=sibling(1)))
    with pytest.raises(ConnectomeError, match="b is written in the frame there, the others in here.*aligned"):
        ConnectomeSpace(dict(a=sibling(0, frame="here"), b=sibling(1, frame="there")))
    with pytest.raises(ConnectomeError, match="a was evolved in the frame here, but there was asked for"):
        ConnectomeSpace(dict(a=sibling(0, frame="here")), frame="there")
    with pytest.raises(ConnectomeError, match="written in the frame else"):
        space.merge([a, FramedWiring(b.connectome, "else")])
    other = prune(new_gpt(GPTConfig(vocab_size=41, n_layer=2, n_head=2, n_embd=8), Seeds(0)), 0.7)
    with pytest.raises(ConnectomeError, match="b is of another architecture.*41"):
        ConnectomeSpace(dict(a=sibling(0), b=other), frame="f")
    with pytest.raises(ConnectomeError, match="another tokenizer"):
        ConnectomeSpace(dict(a=sibling(0, vocabulary="v"), b=sibling(1, vocabulary="w")), frame="f")
    with pytest.raises(ConnectomeError, match="magnitude 0.5, the others 0.02"):
        ConnectomeSpace(dict(a=sibling(0), b=dataclasses.replace(sibling(1), magnitude=0.5)), frame="f")
    empty = sibling(0)
    empty.signs["lm_head.weight"].zero_()
    with pytest.raises(ConnectomeError, match="leaves lm_head.weight empty"):
        ConnectomeSpace(dict(a=sibling(1), b=empty), frame="f")
    with pytest.raises(InputError, match="mutation.*mvoe|unknown.*mvoe|'mvoe'"):
        ConnectomeSpace(space.parents, mutation="mvoe")
    with pytest.raises(InputError, match="shares of mutations"):
        ConnectomeSpace(space.parents, mutation=dict(move=0))


def test_what_cannot_be_crossed_mutated_or_read(space):
    a, b, _ = space.start()
    for weights in ([1], [1, -1], [0, 0], [1, np.nan]):
        with pytest.raises(InputError, match="weights are"):
            space.merge([a, b], weights)
    for weights in ([1], [1, np.inf], [[1, 1]]):
        with pytest.raises(InputError, match="weights are"):
            space.combine([a, b], weights)
    with pytest.raises(InputError, match="at least one"):
        space.merge([])
    with pytest.raises(InputError, match="at least one"):
        space.combine([], [])
    with pytest.raises(InputError, match="crossover"):
        space.merge([a, b], name="ties")
    with pytest.raises(InputError, match="difference of wirings"):
        space.merge([a, space.combine([a, b], [1, -1])])
    for rate, scale in ((2, 1), (-1, 1), (0.1, -1), (0.1, np.inf), (np.nan, 1)):
        with pytest.raises(InputError, match="rate is|scale is"):
            space.perturb(a, rate, scale, Seeds(0).numpy())
    with pytest.raises(InputError, match="needs two"):
        diversity_by_matrix([a])
    packed = space.pack(a)
    for broken in ({}, packed | dict(about=packed["about"][:-9]),
                   packed | {"lm_head.weight|wired": packed["lm_head.weight|wired"][:-1]}):
        with pytest.raises(DamagedFileError, match="stored wiring is damaged"):
            space.unpack(broken)
