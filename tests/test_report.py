"""The report: one page without network, safe against what users name things, whole or not at all, partial runs."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from evonb import report
from evonb.core import DamagedFileError, Seeds
from evonb.kinds import RUN_KINDS, RunKind
from evonb.plots import connectome as plots
from evonb.plots import examples as plots_examples
from evonb.statistics import p_text
from evonb.store import create_run, open_run, read_dataset, read_json, reopen_run, write_dataset, write_json

EVIL = "</script><script>alert('x')</script><img src=http://evil.example/x onerror=alert(1)>\"'&"


@pytest.fixture
def run(tmp_path):
    return report.example_run(tmp_path / "run", Seeds(1), config=dict(command=["evonb", "demo", "--seed", 1]))


class Page(HTMLParser):
    "Tags with their attributes, scripts' contents, and whether tags nest."

    void = {"meta", "br", "img", "link", "input", "hr"}

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.scripts, self.open, self.text = [], [], [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif not self.open or self.open[-1] != "style":
            self.text += data


def parse(path):
    page = Page(Path(path).read_text(encoding="utf-8"))
    assert not page.open
    return page


def specs(page):
    return [json.loads(s) for (_, a), s in zip([t for t in page.tags if t[0] == "script"], page.scripts)
            if a.get("type") == "application/json"]


def missing(path):
    return re.findall(r"<h2>([^<]*)</h2><p class='missing'>", Path(path).read_text(encoding="utf-8"))


def test_a_whole_run_has_every_section_and_figure(run):
    path = report.write_report(run)
    assert path == run / "report.html" and not missing(path)
    page = parse(path)
    titles = [s.title for s in (*report.connectome_page, *report.every_page) if s.needs]
    assert all(t in page.text for t in titles)
    anchors = {a["id"] for tag, a in page.tags if tag == "section"}
    assert anchors == {a["href"][1:] for tag, a in page.tags if tag == "a"} and len(anchors) == len(titles)
    assert len(specs(page)) == 8 and len([1 for tag, _ in page.tags if tag == "figcaption"]) == 8
    assert all(a["aria-label"] for tag, a in page.tags if a.get("class") == "plot")
    assert "evonb demo --seed 1" in page.text
    assert not list(run.glob(".*.tmp"))


def test_the_figures_are_those_of_plots(run):
    page = specs(parse(report.write_report(run)))
    expected = plots.loss_curves(read_dataset(run / "development.zarr.zip"))
    assert page[0]["data"] == json.loads(expected.to_json())["data"]
    assert not page[0]["layout"]["title"]["text"]  # it stands in the caption


def test_the_page_asks_the_network_for_nothing(run):
    page = parse(report.write_report(run))
    for tag, attrs in page.tags:
        assert tag not in {"link", "iframe", "object", "embed", "base", "img"}
        assert "src" not in attrs and attrs.get("href", "#")[0] == "#"
    text = (run / "report.html").read_text(encoding="utf-8")
    from plotly.offline import get_plotlyjs
    assert text.count(get_plotlyjs()) == 1
    own = text.replace(get_plotlyjs(), "")
    assert not re.search(r"@import|url\(|https?://|//cdn|fetch\(|XMLHttpRequest|WebSocket", own)
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "http" not in policy


def test_the_table_holds_the_summary(run):
    text, summary = (report.write_report(run)).read_text(encoding="utf-8"), read_json(run / "summary.json")
    rows = re.findall(r"<tr><th scope='row'><span[^>]*></span>([^<]*)</th>(.*?)</tr>", text)
    by_loss = sorted(summary["arms"], key=lambda a: summary["arms"][a]["test_loss"]["mean"])
    assert [name for name, _ in rows] == [a.replace("_", "-") for a in by_loss]
    for arm, (_, cells) in zip(by_loss, rows):
        v = summary["arms"][arm]
        for k in ("val_loss", "test_loss"):
            mean, sd, low, high = (f"{v[k][x]:.3f}" for x in ("mean", "sd", "low", "high"))
            assert f"{mean} ± {sd}<br><small>[{low}, {high}]</small>" in cells
        d = v["test_difference"]  # of the split that the sentence speaks of
        told = d and f"<td>{d['mean']:+.3f}<br><small>[{d['low']:+.3f}, {d['high']:+.3f}]</small></td>"
        assert f"{told}<td>{p_text(d)}</td>" in cells if d else cells.count("<td>–</td>") == 2
        assert "<td>5 seeds</td>" in cells
    assert f"corrected for {len(rows) - 1} comparisons (Holm)" in text
    assert summary["statement"] in parse(run / "report.html").text


def test_example_run_reaches_its_truth_and_repeats(run, tmp_path):
    again = report.example_run(tmp_path / "again", Seeds(1))
    assert read_json(run / "summary.json") == read_json(again / "summary.json")
    arms = read_json(run / "summary.json")["arms"]
    floor = plots_examples.example_floors
    for arm, v in arms.items():
        if arm != "connectome":
            for d in (v["difference"], v["test_difference"]):
                assert d["mean"] == pytest.approx(floor[arm] - floor["connectome"], abs=0.03)
                assert d["p"] < d["p_adjusted"] * 1.0001 and d["family"] == len(arms) - 1


def test_what_users_name_things_stays_text(tmp_path):
    config = dict(note=EVIL, command=["evonb", EVIL], model={EVIL: 1})
    path = report.example_run(tmp_path / "a<b>&'run", Seeds(1), config=config)
    with reopen_run(path) as run:
        summary = read_json(run.file("summary.json"))
        summary["statement"], summary["corpus"] = EVIL, {EVIL: {EVIL: 3}, "source": {"name": EVIL}}
        summary["arms"][EVIL] = summary["arms"].pop("random")
        write_json(run.file("summary.json"), summary)
        for name, variable in (("development", "arm"), ("evolution", "matrix")):
            ds = read_dataset(run.file(f"{name}.zarr.zip"))
            odd = [EVIL if n in ("random", "lm_head.weight") else n for n in ds[variable].values.tolist()]
            write_dataset(run.file(f"{name}.zarr.zip"), ds.assign_coords({variable: odd}))
    clean = parse(report.write_report(report.example_run(tmp_path / "clean", Seeds(1), config=dict(command="x"))))
    page = parse(report.write_report(path))
    assert not missing(path / "report.html")
    count = lambda p, tag: sum(t == tag for t, _ in p.tags)
    assert count(page, "script") == count(clean, "script") and count(page, "img") == 0
    assert not [a for _, a in page.tags if any(k.startswith("on") for k in a)]
    assert page.text.count(EVIL) >= 6 and "a<b>&'run" in page.text
    names = [t.get("name", "") for spec in specs(page) for t in spec["data"]]
    assert any("&lt;/script&gt;" in n for n in names) and not any("<" in n for n in names)


@pytest.mark.parametrize("gone, sections", [
    ("development.zarr.zip", ["Growing up: the arms", "Learning rates"]),
    ("evolution.zarr.zip", ["Evolution: the generations", "The connectome, matrix by matrix"]),
    ("summary.json", ["Result", "Where the arms end", "Corpora"]),
])
def test_a_partial_run_says_what_is_missing(run, gone, sections):
    (run / gone).unlink()
    path = report.write_report(run)
    assert missing(path) == sections and f"the run has no {gone}" in parse(path).text


def test_connectomes_may_be_missing_and_only_the_first_and_last_are_shown(run):
    page = parse(report.write_report(run))
    assert "Connectome after generation 4" in page.text and "Connectome after generation 0" in page.text
    (run / "evolution" / "gen-00" / "connectome.safetensors").unlink()
    assert "after generation 0" not in parse(report.write_report(run)).text
    (run / "evolution" / "gen-04" / "connectome.safetensors").unlink()
    assert missing(report.write_report(run)) == ["The wiring itself"]


def test_a_run_that_only_began_and_one_that_failed(tmp_path):
    with create_run(tmp_path / "begun", dict(seed=3), "connectome"):
        inside = parse(report.write_report(tmp_path / "begun")).text
    assert "This run was running" in inside
    needing = [s for s in report.connectome_page if s.needs]
    assert len(missing(tmp_path / "begun" / "report.html")) == len(needing)
    assert "This run was" not in parse(report.write_report(tmp_path / "begun")).text
    with pytest.raises(RuntimeError), create_run(tmp_path / "failed", {}, "connectome"):
        raise RuntimeError("<b>out of luck")
    assert "This run was failed (RuntimeError: <b>out of luck)" in parse(report.write_report(tmp_path / "failed")).text


def test_losses_not_measured_yet_are_said_to_be(run):
    ds = read_dataset(run / "development.zarr.zip")
    write_dataset(run / "development.zarr.zip", ds.assign(sweep_val_loss=ds.sweep_val_loss * np.nan))
    path = report.write_report(run)
    assert missing(path) == ["Learning rates"] and "sweep_val_loss holds no finite value" in parse(path).text


def test_whole_or_nothing(run, monkeypatch):
    before = report.write_report(run).read_bytes()
    whole = (run / "evolution.zarr.zip").read_bytes()
    (run / "evolution.zarr.zip").write_bytes(whole[:-7])
    with pytest.raises(DamagedFileError, match="evolution.zarr.zip"):
        report.write_report(run)
    (run / "evolution.zarr.zip").write_bytes(whole)
    def cut(source, page):
        page.write(source.read(1000))
        raise RuntimeError("killed")
    monkeypatch.setattr(report.shutil, "copyfileobj", cut)
    with pytest.raises(RuntimeError, match="killed"):
        report.write_report(run)
    assert (run / "report.html").read_bytes() == before and not list(run.glob(".report*"))


def test_no_run_no_report(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a run folder"):
        report.write_report(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


@pytest.fixture
def novel():
    "A kind of run that a package of one's own registers, with a page of its own."
    page = report.Page()
    RUN_KINDS.add("novel", RunKind("novel", "evonb novel", page=page, command=lambda settings: "evonb novel"))
    yield page
    RUN_KINDS.remove("novel")


def test_a_run_of_an_unknown_kind_shows_what_every_run_shows(tmp_path):
    with create_run(tmp_path / "run", dict(seed=1), kind="of a package that isn't here"):
        pass
    text = report.report_html(open_run(tmp_path / "run"))
    assert re.findall("<h2>([^<]*)", text) == ["Settings and versions", "How to repeat it"]


def test_another_kind_of_run_brings_its_own_sections(tmp_path, novel):
    @novel.section("Fitness", needs=("fitness.json",), uses=("extra.json",))
    def fitness(found, extra):
        return f"<p>best {found['best']}, extra {extra}</p>"

    with create_run(tmp_path / "run", {}, kind="novel") as run:
        write_json(run.file("fitness.json"), dict(best=0.5))
    text = report.report_html(open_run(tmp_path / "run"))
    assert "<p>best 0.5, extra None</p>" in text and "Growing up" not in text and "Settings and versions" in text
    novel.section("Odd", needs=("odd.npy",))(lambda x: "")
    (tmp_path / "run" / "odd.npy").write_bytes(b"")
    with pytest.raises(ValueError, match="odd.npy"):
        report.report_html(open_run(tmp_path / "run"))


@pytest.fixture
def bred(tmp_path):
    return report.example_population_run(tmp_path / "bred", Seeds(1), config=dict(command=["evonb", "population"]))


@pytest.fixture(scope="module")
def bred_once(tmp_path_factory):
    "A population's run with its report, to be read only."
    path = report.example_population_run(tmp_path_factory.mktemp("bred") / "run", Seeds(1))
    report.write_report(path)
    return path


# for runs that noted drift, methods that have an archive or a front, runs with families
OPTIONAL = "Drift and forgetting", "The archive", "The front", "Inheritance", "Between individuals"
POPULATION = [s.title for s in report.population_page if s.title not in OPTIONAL]


def always(titles):
    return [t for t in titles if t not in OPTIONAL]


def test_a_population_has_every_section_and_figure(bred_once):
    path = bred_once / "report.html"
    page = parse(path)
    assert not missing(path) and all(t in page.text for t in POPULATION)
    assert len(specs(page)) == len(POPULATION) - 1  # the result is tables
    assert "Growing up" not in page.text and page.text.count("p = ") > 6


def test_the_methods_table_holds_the_summary_best_first(bred_once):
    text, summary = (bred_once / "report.html").read_text(encoding="utf-8"), read_json(bred_once / "summary.json")
    body = text.split("</thead>")[1].split("</table>")[0]
    rows = re.findall(r"<tr><th scope='row'><span[^>]*></span>([^<]*)</th>(.*?)</tr>", body)
    assert [r[0] for r in rows] == sorted(summary["methods"], key=lambda m: -summary["methods"][m]["test"]["mean"])
    for name, cells in rows:
        v = summary["methods"][name]
        assert f"{v['validation']['mean']:.3f} ± {v['validation']['sd']:.3f}" in cells
        low, high = v["test"]["low"], v["test"]["high"]
        assert f"{v['test']['mean']:.3f} ± {v['test']['se']:.3f}<br><small>[{low:.3f}, {high:.3f}]" in cells
        for d in v["versus"].values():
            told = f"{d['mean']:+.3f}<br><small>[{d['low']:+.3f}, {d['high']:+.3f}]<br>"
            assert f"{told}p = {d['p_adjusted']:.2g}</small>" in cells
        assert cells.count("<td>–</td>") == 2 - len(v["versus"])
    by_task = text.split("Test score by task")[1].split("</table>")[0]
    for v in summary["methods"].values():
        assert all(f"<td>{t['mean']:.3f} ± {t['se']:.3f}</td>" in by_task for t in v["by_task"].values())
    assert by_task.count("(held out)") == sum(not t["selected"] for t in summary["tasks"]) == 1


def test_an_example_population_reaches_its_truth_and_repeats(bred_once, tmp_path):
    again = report.example_population_run(tmp_path / "again", Seeds(1))
    assert read_json(bred_once / "summary.json") == read_json(again / "summary.json")
    ends = plots_examples.example_ends
    for name, v in read_json(bred_once / "summary.json")["methods"].items():
        assert v["validation"]["mean"] == pytest.approx(ends[name], abs=0.03)
        if name not in ("best-expert", "random-search"):
            assert v["versus"]["random-search"]["mean"] == pytest.approx(ends[name] - ends["random-search"], abs=0.05)


@pytest.mark.parametrize("gone, sections", [
    ("population.zarr.zip", ["Progress of the search", "Ensembles", "Coefficients", "Experts by task"]),
    ("summary.json", ["Result", "Test scores"]),
    ("evolve", ["The evolutions", "Family tree", "Tasks in conflict"]),
])
def test_a_partial_population_says_what_is_missing(bred, gone, sections):
    shutil.rmtree(bred / gone) if gone == "evolve" else (bred / gone).unlink()
    assert always(missing(report.write_report(bred))) == sections


def test_a_population_that_only_began(tmp_path):
    with create_run(tmp_path / "begun", {}, "population"):
        pass
    assert always(missing(report.write_report(tmp_path / "begun"))) == POPULATION
    with reopen_run(tmp_path / "begun") as run:
        write_json(run.file("summary.json"), dict(kind="population", ci=0.95, methods={}))
    assert always(missing(report.write_report(tmp_path / "begun"))) == POPULATION


def test_methods_without_a_family_are_not_in_its_menu(bred_once):
    page = specs(parse(bred_once / "report.html"))
    menus = [[b["label"] for b in s["layout"]["updatemenus"][0]["buttons"]] for s in page
             if s["layout"].get("updatemenus")]
    assert menus[:3] == [["cma-es", "genome-plus", "genome"], ["genome-plus", "genome"],
                         ["cma-es", "genome-plus", "genome"]]
    assert len(menus) == 5 and all("best-expert" not in m for m in menus)


def test_what_users_name_methods_tasks_and_experts_stays_text(tmp_path):
    path = report.example_population_run(tmp_path / "run", Seeds(1))
    clean = parse(report.write_report(path))
    with reopen_run(path) as run:
        summary = read_json(run.file("summary.json"))
        summary["statement"], summary["tasks"][0]["name"] = EVIL, EVIL
        summary["methods"][EVIL] = summary["methods"].pop("genome")
        write_json(run.file("summary.json"), summary)
        ds, file = read_dataset(run.file("population.zarr.zip")), run.file("population.zarr.zip")
        names = {d: [EVIL, *ds[d].values.tolist()[1:]] for d in ("task", "expert", "group", "rule")}
        names["method"] = [EVIL if m == "genome" else m for m in ds["method"].values.tolist()]
        write_dataset(file, ds.assign_coords(names))
        old = run.file("evolve", "genome", "seed-0", "history.zarr.zip")
        history = read_dataset(old).assign_coords(task=[EVIL, "order"])
        text = {k: (history[k].dims, np.full(history[k].shape, EVIL)) for k in ("operator", "reason")}
        write_dataset(old, history.assign(text))
    page = parse(report.write_report(path))
    assert not missing(path / "report.html")
    count = lambda p, tag: sum(t == tag for t, _ in p.tags)
    assert count(page, "script") == count(clean, "script") and count(page, "img") == 0
    assert not [a for _, a in page.tags if any(k.startswith("on") for k in a)]
    bare = lambda trace: {k: v for k, v in trace.items() if k != "legendgroup"}  # which is never drawn
    drawn = [[*map(bare, s["data"]), s["layout"]] for s in specs(page)]
    assert "<script>" not in json.dumps(drawn) and json.dumps(drawn).count("&lt;script&gt;") > 20


def test_experts_show_their_losses_and_curves(tmp_path):
    with create_run(tmp_path / "run", {}, "experts") as run:
        write_dataset(run.file("experts.zarr.zip"), plots_examples.example_training(Seeds(0)))
        fact = dict(source=EVIL, loss_before=3.25, loss=1.125, seconds=75.0, n_steps=200, n_texts=2000,
                    n_weights=147456)
        write_json(run.file("summary.json"), dict(base=dict(source="toy"), experts={"agreeing": fact, EVIL: fact}))
    page = parse(report.write_report(tmp_path / "run"))
    assert not missing(tmp_path / "run" / "report.html") and len(specs(page)) == 1
    assert all(t in page.text for t in ("Base model: toy", "3.250", "1.125", "147k", "1 min 15 s", EVIL))
    (tmp_path / "run" / "experts.zarr.zip").unlink()
    assert missing(report.write_report(tmp_path / "run")) == ["Training"]


def test_a_long_task_is_short_in_the_table_and_whole_in_its_title():
    name = "blimp:anaphor_gender_agreement,principle_A_case_1,wh_island,adjunct_island'<b>"
    summary = dict(methods={}, tasks=[dict(name=name, selected=True)])
    made = report.tasks_table(summary)
    assert f"title='{report.esc(name)}'" in made and "<b>" not in made.replace("<br>", "")
    assert "…" in made and made.count(report.esc(name)) == 1
