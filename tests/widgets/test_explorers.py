"""What holds for every explorer: no state that a page sends can break one."""

import html
import re

import pytest
import traitlets

from evonb.core import InputError, Seeds
from evonb.report import example_population_run
from evonb.widgets.alignment import AlignmentExplorer
from evonb.widgets.connectome import ConnectomeExplorer, example_connectome_run
from evonb.widgets.explorer import Explorer
from evonb.widgets.explorers import EXPLORERS
from evonb.widgets.population import PopulationExplorer
from evonb.widgets.tokens import TokensExplorer

WRONG = (None, float("nan"), float("inf"), -7, 10**30, 0.123, "no such value", "x" * 10**6, [], [0] * 10**5, {},
         {"a": [None]})


@pytest.fixture(scope="module")
def explorers(tmp_path_factory, brain, reading, tiny_reader):
    folder = tmp_path_factory.mktemp("explorers")
    return dict(
        connectome=ConnectomeExplorer(example_connectome_run(folder / "c", Seeds(3), width=32, arms=("random",))),
        population=PopulationExplorer(example_population_run(folder / "p", Seeds(2))),
        alignment=AlignmentExplorer([brain, reading]),
        tokens=TokensExplorer(tiny_reader(), ["the cat sat on the mat.", "a dog ran."]),
    )


@pytest.fixture(params=sorted(EXPLORERS))
def explorer(request, explorers):
    return explorers[request.param]


def page(explorer):
    "The page of what is shown now, without the name that each page draws anew."
    return re.sub("evonb-[0-9a-f]{32}", "", explorer.to_html(only={k: [v] for k, v in explorer.values.items()}))


def refused_states(explorer):
    "States that no page of ours sends, by control and beside the controls."
    for name, value in explorer.values.items():
        allowed = [v for v, _ in explorer.controls[name].options]
        yield from ({**explorer.values, name: wrong} for wrong in WRONG if wrong not in allowed)
        yield {name: not value if not isinstance(value, bool) else int(value)}
    yield from ({"no such control": 1}, {"": None}, {"x" * 10**6: 1}, None, [], 7, "values", [["generation", 0]])


def test_what_a_page_sends_and_is_refused_leaves_no_trace(explorer):
    before, shown, spec, told = dict(explorer.values), page(explorer), dict(explorer._spec), []
    explorer.send_state = lambda key=None: told.append(key)
    states = list(refused_states(explorer))
    for state in states:
        with pytest.raises(traitlets.TraitError) as e:
            explorer.set_state(dict(values=state))
        assert len(str(e.value)) < 1500 or isinstance(state, (list, type(None))), str(e.value)[:300]
        assert explorer.values == before, state
    assert len(states) > 20 and told == [["values"]] * len(states), "the page hears each time what holds"
    for state in (dict(_spec={}), dict(_esm=""), dict(clicked=[]), dict(clicked={"a": 1}, values={"no such": 1})):
        with pytest.raises(traitlets.TraitError):
            explorer.set_state(state)
    del explorer.send_state
    assert explorer._spec == spec and explorer.clicked == {} and explorer._esm
    assert page(explorer) == shown


def test_an_explorer_that_refused_still_works(explorer):
    name = next(k for k in explorer.values if len(explorer.controls[k].options) > 1)
    first = explorer.values[name]
    other = next(v for v, _ in explorer.controls[name].options if v != first)
    with pytest.raises(InputError):
        explorer.set(**{name: [1]})
    explorer.set_state(dict(values={**explorer.values, name: other}))
    assert explorer.values[name] == other
    explorer.set(**{name: first})
    assert isinstance(explorer, Explorer) and explorer.values[name] == first


def test_a_still_tells_every_view_and_takes_little_room(explorer):
    still = explorer.still()
    for view in explorer.views.values():
        assert f"<h4>{html.escape(view.title)}</h4>" in still
    n_figures = still.count("drawStored(\"")
    assert n_figures >= 3 and len(still) < 2e6 * explorer.still_mb, "what is too large is told by its title"
    assert still.count("<script") == 2 * n_figures == still.count("</script>")
