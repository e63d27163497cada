"""The driver's real code over a simulated cluster: nothing lost or done twice, and no schedule beats the bound."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("ray")
sys.path.insert(0, str(Path(__file__).resolve().parent / "bench"))

import fleet  # noqa: E402
from simulated import SimulatedRay, simulated  # noqa: E402

from evonb import cluster  # noqa: E402
from evonb.core import MachineError  # noqa: E402

ROUGH = dict(deaths_per_hour=40.0, stragglers=0.2, slower=3.0)


@pytest.mark.parametrize("n_workers, options", [(1, {}), (7, {}), (7, ROUGH), (30, ROUGH)])
def test_every_individual_is_scored_once(n_workers, options):
    ray, found = fleet.pool(n_workers, 60, seed=1, **options)
    assert found == list(range(60))  # each got its own answer
    assert set(ray.finished) == set(range(60)) and (options or set(ray.finished.values()) == {1})
    assert ray.makespan >= fleet.bound(ray) > 0
    assert ray.held == 0 and ray.most_held <= ray.put_bytes  # nothing stays in the store


@pytest.mark.parametrize("n_workers, options", [(1, {}), (5, {}), (5, dict(deaths_per_hour=20.0, stragglers=0.2))])
def test_every_newborn_is_raised_once(n_workers, options):
    ray = fleet.fleet(n_workers, 12, seed=2, **options)
    assert len(ray.finished) == 12 and set(ray.finished.values()) == {1}
    assert ray.makespan >= fleet.bound(ray) > 0
    assert bool(ray.deaths) == bool(options)


def test_a_simulation_is_the_same_again_and_workers_share_the_work():
    first, second = (fleet.pool(8, 40, seed=3, **ROUGH)[0] for _ in range(2))
    assert first.makespan == second.makespan and first.deaths == second.deaths
    one, eight = (fleet.pool(n, 40, opening=0.0)[0] for n in (1, 8))
    assert one.makespan == pytest.approx(one.work_s, rel=1e-3) and one.makespan > 6 * eight.makespan
    with pytest.raises(MachineError, match="a worker died, 3 times"):
        fleet.pool(3, 20, seed=1, deaths_per_hour=1e5)


def test_all_answers_that_are_there_are_taken_at_once():
    ray = SimulatedRay(4, fleet.seconds_of("pool"))
    with simulated(ray):
        done = [ray.put(i) for i in range(3)]
        assert cluster.all_done(done, 1.0) == done
        worker = ray.remote(cluster._Scorer).remote()
        never = worker.answer.remote(ray.put((b"", [], {}, dict(member=0))), done[0])
        began = ray.now
        assert cluster.all_done([never], 0.5) == [] and ray.now == pytest.approx(began + 0.5)
        assert cluster.all_done([never, *done], 0.5) == done
