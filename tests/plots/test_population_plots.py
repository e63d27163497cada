"""Figures of populations against independently computed numbers: progress, tests, ancestry, fronts, coefficients."""

import itertools
import json
import math

import numpy as np
import pytest
import xarray as xr

from evonb.core import InputError, Seeds
from evonb.plots import examples
from evonb.plots import population as pp
from evonb.plots.style import NothingToPlot, label

METHODS = list(examples.example_ends)
EVIL = "<script>alert('x')</script>"


@pytest.fixture(scope="module")
def population():
    return examples.example_population(Seeds(3))


@pytest.fixture(scope="module")
def history():
    return examples.example_history(Seeds(3))


@pytest.fixture(scope="module")
def summary(population):
    test = {m: pp.of_method(population, m).test.values for m in METHODS}
    told = dict(mean=0.1, low=0.05, high=0.2, p=0.003, p_adjusted=0.0123)
    return dict(ci=0.9, methods={m: dict(
        test=dict(mean=v.mean(), low=v.mean() - 0.02, high=v.mean() + 0.03, se=0.01),
        versus={} if m == "best-expert" else {"best-expert": told})
        for m, v in test.items()})


def made(population, history, summary):
    return dict(search_progress=pp.search_progress(population), final_scores=pp.final_scores(summary, population),
                generations_figure=pp.generations_figure(history, 0.4), family_tree=pp.family_tree(history),
                ensemble_curves=pp.ensemble_curves(population, "genome"), pareto_view=pp.pareto_view(history),
                coefficient_map=pp.coefficient_map(population, "genome"), expert_scores=pp.expert_scores(population),
                expert_curves=pp.expert_curves(examples.example_training(Seeds(0))))


def named(fig, name):
    return next(t for t in fig.data if t.name == name)


def test_examples_repeat_bit_for_bit_and_differ_by_seed():
    for make in (examples.example_population, examples.example_history, examples.example_training):
        xr.testing.assert_identical(make(Seeds(5)), make(Seeds(5)))
        assert not make(Seeds(5)).equals(make(Seeds(6)))


def test_every_figure_has_a_title_units_and_a_see_through_page(population, history, summary):
    for name, fig in made(population, history, summary).items():
        assert fig.layout.title.text and fig.layout.title.subtitle.text and fig.layout.height
        assert fig.layout.template.layout.paper_bgcolor == "rgba(0,0,0,0)"
        json.loads(fig.to_json())
        if name not in ("expert_scores", "coefficient_map"):
            assert fig.layout.xaxis.title.text, name
            assert fig.layout.yaxis.title.text or name == "final_scores", name  # its rows are the methods
    assert "share of items right" in pp.search_progress(population).layout.yaxis.title.text


def test_progress_is_the_mean_over_seeds_with_its_range(population):
    fig = pp.search_progress(population)
    line, v = named(fig, "cma-es"), pp.of_method(population, "cma-es").best_value.values
    x = population.evaluation.values.tolist()
    drawn = dict(zip(line.x, line.y))  # at a step, the value after it
    for at in set(line.x):
        column = [float(row[x.index(at)]) for row in v]
        assert drawn[at] == pytest.approx(sum(column) / len(column))
    band = next(t for t in fig.data if t.fill == "toself" and t.legendgroup == "cma-es")
    n = len(line.x)
    assert band.y[n - 1] == pytest.approx(v[:, -1].max()) and band.y[n] == pytest.approx(v[:, -1].min())
    assert "5 seeds" in fig.layout.title.subtitle.text and "lowest to highest" in fig.layout.title.subtitle.text


def test_baselines_are_level_dashed_lines_and_chance_is_the_mean_of_selected_tasks(population):
    fig = pp.search_progress(population)
    for name in examples.example_baselines:
        line = named(fig, name)
        assert line.line.dash == "dash" and len(line.x) == 2 and line.y[0] == line.y[1]
        assert line.y[0] == pytest.approx(float(pp.of_method(population, name).validation.mean()))
    late = population.copy(deep=True)
    late.best_value[0, :, :3] -= 0.1  # best-expert finds the best of five experts at its fourth look
    assert named(pp.search_progress(late), "best-expert").line.dash == "dash"
    late.best_value[0, :, :50] -= 0.1
    assert len(named(pp.search_progress(late), "best-expert").x) > 2
    assert named(fig, "chance").y[0] == pytest.approx((0.5 + 0.5 + 0.25) / 3)
    perplexed = population.assign(chance=("task", [0.5, math.nan, 0.25, 0.5]))
    fig = pp.search_progress(perplexed)
    assert "chance" not in [t.name for t in fig.data] and "higher is better" in fig.layout.yaxis.title.text


def test_a_method_looks_the_same_in_every_figure(population, summary):
    styles = pp.method_styles(METHODS)
    assert len(set(styles.values())) == len(METHODS)
    lines = {t.name: t for t in pp.search_progress(population).data if t.name in METHODS}
    dots = {t.name: t for t in pp.final_scores(summary, population).data if t.name in METHODS}
    assert set(lines) == set(dots) == set(METHODS)
    for m, style in styles.items():
        assert lines[m].line.color == dots[m].marker.color == style.colour and dots[m].marker.symbol == style.symbol


def test_a_method_that_only_the_summary_knows_has_its_row(population, summary):
    more = dict(summary, methods=summary["methods"] | {"late": dict(test=dict(mean=0.5))})
    assert "late" in pp.final_scores(more, population).layout.yaxis.categoryarray


def test_final_scores_are_sorted_with_bars_and_differences(population, summary):
    fig = pp.final_scores(summary, population)
    dots = [t for t in fig.data if t.name in METHODS]
    means = [t.x[0] for t in dots]
    assert means == sorted(means, reverse=True) and list(fig.layout.yaxis.categoryarray) == [t.name for t in dots][::-1]
    for t in dots:
        assert t.error_x.array[0] == pytest.approx(0.03) and t.error_x.arrayminus[0] == pytest.approx(0.02)
    thick = [t for t in fig.data if t.mode == "lines"]
    assert all(t.x[1] - t.x[0] == pytest.approx(0.02) for t in thick) and len(thick) == len(METHODS)
    told = [a.text for a in fig.layout.annotations if a.visible is not False and a.text.startswith("+")]
    assert told == ["+0.100 [+0.050, +0.200], p = 0.012"] * (len(METHODS) - 1)
    seeds = next(t for t in fig.data if str(t.marker.symbol).endswith("-open") and t.y[0] == "genome")
    assert np.array_equal(seeds.x, pp.of_method(population, "genome").test)
    assert "90 % CI" in fig.layout.title.subtitle.text


def test_individuals_skip_empty_places_and_name_the_failed(history):
    part = history.copy(deep=True)
    part.digest[-1, 5:] = ""
    everyone = pp.individuals(part)
    assert len(everyone.id) == 12 * 14 - 9 and len({len(f) for f in everyone}) == 1
    assert np.array_equal(everyone.failed, np.isnan(everyone.value))
    hover = named(pp.generations_figure(history), f"failed ({int(history.failed.sum())})").hovertext
    assert len(hover) == int(history.failed.sum()) and all("the logits hold nan" in h for h in hover)


def test_generations_show_median_quartiles_and_best(history):
    fig = pp.generations_figure(history)
    median, best = named(fig, "median"), named(fig, "best so far")
    top = -math.inf
    for g, row in enumerate(history.value.values.tolist()):
        alive = sorted(v for v in row if v == v)
        half = len(alive) // 2
        assert median.y[g] == pytest.approx(alive[half] if len(alive) % 2 else (alive[half - 1] + alive[half]) / 2)
        top = max(top, alive[-1])
        assert best.y[g] == top
    points = [t for t in fig.data if t.mode == "markers"]
    assert sum(len(t.x) for t in points) == history.value.size
    lowest = min(t.y.min() for t in points if not t.name.startswith("failed"))
    assert all(y < lowest for t in points if t.name.startswith("failed") for y in t.y)
    assert all(abs(x - round(x)) <= 0.3 for t in points for x in t.x)


def test_ancestry_and_main_line_against_a_plain_search(history):
    everyone = pp.individuals(history)
    parents = dict(zip(everyone.id, everyone.parents))
    value = dict(zip(everyone.id, everyone.value))
    best = max((v, -i, d) for i, (d, v) in enumerate(value.items()) if v == v)[2]
    assert everyone.id[pp.best_place(everyone)] == best
    def up(d):
        return {d}.union(*(up(p) for p in set(parents[d])))
    found = pp.ancestry(everyone, best)
    assert set(found) == up(best) and len(found) > 12
    line = pp.main_line(everyone, best)
    for child, parent in itertools.pairwise(line):
        assert parent in parents[child] and value[parent] == max(value[p] for p in parents[child])
    assert not parents[line[-1]]
    with pytest.raises(InputError, match="no individual"):
        pp.ancestry(everyone, "nobody")


def test_ties_in_value_are_broken_by_the_smooth_objective(history):
    tied = history.assign(value=history.value * 0 + 0.5, smooth=-history.value)
    everyone = pp.individuals(tied)
    assert everyone.id[pp.best_place(everyone)] == str(history.digest.values.ravel()[np.nanargmin(history.value)])


def test_family_tree_draws_every_link_once_and_the_best_on_top(history):
    fig = pp.family_tree(history)
    everyone = pp.individuals(history)
    grey, orange, thick = (t for t in fig.data if t.mode == "lines")
    links = sum(len(p) for p in everyone.parents)
    assert len(grey.x) == 3 * links and len(thick.x) < len(orange.x) < len(grey.x)
    nodes = named(fig, "individual")
    for g in range(12):
        column = [(y, c) for x, y, c in zip(nodes.x, nodes.y, nodes.marker.color) if x == g]
        assert [c for _, c in sorted(column)] == sorted((c for _, c in column), reverse=True)
    ringed = [w > 0 for w in nodes.marker.line.width]
    best = everyone.id[pp.best_place(everyone)]
    assert sum(ringed) == len(pp.ancestry(everyone, best)) and "ancestors" in fig.layout.title.subtitle.text


def test_a_big_family_is_thinned_but_keeps_the_ancestors():
    history = examples.example_history(Seeds(1), 40, 40)
    fig, everyone = pp.family_tree(history), pp.individuals(history)
    lineage = pp.ancestry(everyone, everyone.id[pp.best_place(everyone)])
    nodes = named(fig, "individual")
    assert len(nodes.x) < len(everyone.id) / 2 and "best 10 of each" in fig.layout.title.subtitle.text
    assert sum(w > 0 for w in nodes.marker.line.width) == len(lineage)
    assert len(pp.family_tree(history, n_rows=2).data[3].x) < len(nodes.x)


def test_children_of_the_same_generation_stand_beside_their_parents(history):
    part = history.copy(deep=True)
    part.parents[3, 5], part.operator[3, 5] = part.digest[3, 4].item(), "mutation"
    nodes = named(pp.family_tree(part), "individual")
    at = [x for x in nodes.x if x not in range(12)]
    assert at == [3.5]


def test_methods_without_families_and_empty_histories_are_named(history):
    with pytest.raises(NothingToPlot, match="No individual has a parent"):
        pp.family_tree(history.assign(parents=history.parents.copy(data=np.full(history.parents.shape, ""))))
    with pytest.raises(NothingToPlot, match="All individuals failed"):
        pp.family_tree(history.assign(value=history.value * math.nan))
    with pytest.raises(NothingToPlot, match="nothing has been scored"):
        pp.individuals(history.assign(digest=history.parents.copy(data=np.full(history.parents.shape, ""))))
    with pytest.raises(NothingToPlot, match="no digest, no parents"):
        pp.individuals(history.drop_vars(["digest", "parents"]))
    fig = pp.generations_figure(history.assign(value=history.value * math.nan))
    assert [t.name for t in fig.data] == [f"failed ({history.value.size})"]


def test_the_front_is_a_staircase(history):
    fig = pp.pareto_view(history)
    line, scored = named(fig, "front"), named(fig, "individual")
    v = history.score.values.reshape(-1, 2)
    assert len(scored.x) == np.isfinite(v).all(1).sum() and list(line.x) == sorted(line.x)
    assert list(line.y) == sorted(line.y, reverse=True)
    x, y = pp.pareto_view(history, ("order", "agreement")).layout, fig.layout
    assert x.xaxis.title.text == y.yaxis.title.text == "validation score on order"


def test_opposed_tasks_are_those_that_correlate_least(history):
    a, b = history.score.values[..., 0], history.score.values[..., 1]
    three = xr.Dataset(dict(score=(("generation", "individual", "task"), np.stack([a, a + 0.1 * b, b], -1))),
                       dict(task=["a", "mixed", "b"]))
    assert pp.opposed_tasks(three) == ("a", "b")
    with pytest.raises(NothingToPlot, match="one task"):
        pp.opposed_tasks(three.isel(task=[0]))
    with pytest.raises(InputError, match="task is 'nowhere'"):
        pp.pareto_view(history, ("order", "nowhere"))


def test_ensembles_show_rules_single_best_and_an_oracle(population):
    fig, part = pp.ensemble_curves(population, "genome"), pp.of_method(population, "genome")
    for rule in ("vote", "probability", "perplexity"):
        t, v = named(fig, rule), part.ensemble_test.sel(rule=rule).values
        assert np.allclose(t.y, v.mean(0)) and list(t.customdata) == [1, 3, 5, 9]
        assert np.allclose(t.y + t.error_y.array, v.max(0)) and np.allclose(t.y - t.error_y.arrayminus, v.min(0))
    assert np.allclose(named(fig, "oracle (any member right)").y, part.oracle_test.mean("seed"))
    assert named(fig, "single best").y[0] == pytest.approx(float(part.test.mean()))
    with pytest.raises(NothingToPlot):
        pp.ensemble_curves(population, "sum")
    with pytest.raises(NothingToPlot, match="at least two members"):  # a run of ensemble_size 1
        pp.ensemble_curves(population.drop_vars(["ensemble_test", "oracle_test"]).drop_dims("rule"), "genome")
    with pytest.raises(InputError, match="method is 'nothing'"):
        pp.ensemble_curves(population, "nothing")


def test_coefficients_are_centred_at_zero_and_near_the_truth(population):
    fig, part = pp.coefficient_map(population, "genome"), pp.of_method(population, "genome").coefficients
    heat = fig.data[0]
    assert np.allclose(heat.z, part.mean("seed").values.T) and heat.zmin == -heat.zmax == -np.abs(heat.z).max()
    assert np.allclose(np.array(heat.z).mean(1), examples.example_truth, atol=0.15)
    one = pp.coefficient_map(population, "genome", seed=2)
    assert np.array_equal(one.data[0].z, part.sel(seed=2).values.T) and one.layout.title.subtitle.text == "one seed"
    with pytest.raises(NothingToPlot):
        pp.coefficient_map(population, "best-expert")
    with pytest.raises(InputError, match="seed is 9"):
        pp.coefficient_map(population, "genome", seed=9)


def test_expert_scores_end_with_chance_and_mark_what_was_held_out(population):
    heat = pp.expert_scores(population, "validation").data[0]
    assert np.array_equal(heat.z[:-1], population.expert_validation) and list(heat.z[-1]) == [0.5, 0.5, 0.25, 0.5]
    assert [("held out" in x) for x in heat.x] == [False, False, False, True] and heat.y[-1] == "chance"
    with pytest.raises(InputError, match="split is 'train'"):
        pp.expert_scores(population, "train")


def test_switch_shows_one_at_a_time(population):
    figures = {m: pp.ensemble_curves(population, m) for m in ("genome", "cma-es")}
    fig = pp.switch(figures)
    n = len(figures["genome"].data)
    assert [bool(t.visible) for t in fig.data] == [True] * n + [False] * n
    buttons = fig.layout.updatemenus[0].buttons
    assert [b.label for b in buttons] == ["genome", "cma-es"]
    for i, b in enumerate(buttons):
        assert list(b.args[0]["visible"]) == [j // n == i for j in range(2 * n)]
    assert pp.switch({"one": figures["genome"]}) is figures["genome"]
    with pytest.raises(NothingToPlot):
        pp.switch({})


def test_a_population_that_is_not_finished(population):
    empty = population.best_value * math.nan
    with pytest.raises(NothingToPlot, match="best_value"):
        pp.search_progress(population.assign(best_value=empty))
    part = population.copy(deep=True)
    part.best_value[-1] = math.nan
    part.best_value[4, 1:] = math.nan
    names = [t.name for t in pp.search_progress(part).data]
    assert METHODS[-1] not in names and METHODS[4] in names
    with pytest.raises(NothingToPlot, match="sealed test"):
        pp.final_scores(dict(ci=0.95, methods={"genome": dict(test=dict(mean=math.nan))}))


def test_names_of_users_stay_text(population, history, summary):
    coords = {d: [EVIL, *population[d].values.tolist()[1:]] for d in ("task", "expert", "group", "rule")}
    odd = population.assign_coords(coords | dict(method=[*METHODS[:-1], EVIL]))
    told = {EVIL if m == METHODS[-1] else m: v for m, v in summary["methods"].items()}
    text = {k: (history[k].dims, np.full(history[k].shape, EVIL)) for k in ("operator", "reason", "digest")}
    strange = history.assign(text).assign_coords(task=[EVIL, "order"])
    figures = made(odd, history, dict(ci=0.95, methods=told)) | dict(
        evil=pp.ensemble_curves(odd, EVIL), map=pp.coefficient_map(odd, EVIL), pareto=pp.pareto_view(strange),
        points=pp.generations_figure(strange), tree=pp.family_tree(strange),
        menu=pp.switch({EVIL: pp.expert_scores(odd), "b": pp.expert_scores(odd)}))
    for fig in figures.values():
        drawn = [t.to_plotly_json() for t in fig.data]
        for t in drawn:
            t.pop("legendgroup", None)  # never drawn
        layout = fig.layout.to_plotly_json()
        layout.pop("template")
        assert "<script>" not in json.dumps([drawn, layout], default=lambda a: getattr(a, "tolist", lambda: str(a))())


def test_profiles_of_few_generations_far_apart():
    few = examples.example_history(Seeds(0)).isel(generation=[0, 9])
    lines = [t.name for t in pp.task_profiles(few).data if t.name and t.name.startswith("generations")]
    assert lines == ["generations 0 to 0", "generations 9 to 9"]


LONG = [f"blimp:anaphor_gender_agreement,principle_A_case_1,wh_island,adjunct_island_{i}<b>" for i in range(3)]


def renamed(dataset, dim):
    "The dataset with long names, which differ at their ends only."
    names = LONG[:dataset.sizes[dim]] + dataset[dim].values.tolist()[len(LONG):]
    return dataset.assign_coords({dim: names})


def test_long_names_are_short_on_the_figure_and_whole_on_hover(population, history):
    drawn = dict(
        profiles=pp.task_profiles(renamed(history, "task")), map=pp.task_map(renamed(history, "task")),
        front=pp.pareto_view(renamed(history, "task"), tuple(LONG[:2])),
        coloured=pp.generations_figure(renamed(history, "task"), colour=LONG[0]),
        scores=pp.expert_scores(renamed(population, "task")),
        curves=pp.expert_curves(renamed(examples.example_training(Seeds(0)), "expert")))
    whole = [label(name) for name in LONG]
    for name, fig in drawn.items():
        layout = json.dumps(fig.layout.to_plotly_json(), default=str).replace("\\u2026", "…")
        assert not any(w in layout for w in whole), name
    assert all("…" in json.dumps(drawn[n].layout.to_plotly_json(), ensure_ascii=False, default=str)
               for n in ("profiles", "front"))
    assert any("…" in str(t.marker.colorbar.title.text) for t in drawn["coloured"].data)
    assert whole[0] in drawn["coloured"].data[0].hovertemplate
    rows, columns = drawn["map"].data[0].y, drawn["scores"].data[0].x
    assert len(set(rows)) == len(rows) and len(set(columns)) == len(columns)  # what ends differently stays apart
    assert all(max(map(len, row.split("<br>"))) <= 24 for row in [*rows, *columns])
    assert drawn["map"].data[0].text[0][0].startswith(whole[0] + "<br>")
    assert whole[0] in str(drawn["scores"].data[0].customdata) and whole[1] in drawn["front"].data[0].hovertemplate
    lines = [t for t in drawn["curves"].data if t.showlegend is not False]
    assert [t.hovertemplate.split("<br>")[0] for t in lines[:3]] == whole
    assert len({t.name for t in lines}) == len(lines) and all(len(t.name) <= 46 for t in lines)
    assert all("…" not in str(fig.to_dict()) for fig in (pp.task_map(history), pp.expert_scores(population)))
