from collections import Counter

import numpy as np
import pytest
import xarray as xr

import grsd
from grsd.conditions import invariance, of_specs
from grsd.conditions.matched import frontier_window, widths_of
from grsd.studies import log_shift_invariance as study
from grsd.studies import stages
from grsd.studies.calibration import INTERIOR, LAW, SHELLS, WIDTHS

SPEC = study.replace(stages.INVARIANCE, samples=24, width=8, depth=2, times=(0.2, 4.0, 4), smoothing=0.3)


def judge(planted, number, widths=WIDTHS, runs=8):
    return invariance.judge(study.planted_runs(planted, number, runs, widths), window=INTERIOR)


def test_a_planted_law_holds():
    verdicts = Counter(judge(study.INVARIANT, number).verdict for number in range(5))
    assert verdicts["holds"] >= 4
    assert not verdicts["fails"]
    judged = judge(study.INVARIANT, 0)
    assert judged.details.exponents == pytest.approx([1.5, 1.5], abs=0.1)
    assert "D^2 of the coupling is" in str(judged)


def test_planted_shells_hold_at_their_own_width():
    judged = [judge(SHELLS, number, WIDTHS[:1]) for number in range(3)]
    assert {one.verdict for one in judged} == {"holds"}


@pytest.mark.parametrize("planted", [study.LOG_PERIODIC, study.SCALED], ids=["log-periodic", "scale"])
def test_broken_laws_fail(planted):
    judged = [judge(planted, number) for number in range(3)]
    assert {one.verdict for one in judged} == {"fails"}
    assert all(one.details.p < 0.05 and one.interval[0] > 0.04 for one in judged)


def test_a_scale_that_is_removed_is_no_departure():
    runs = study.planted_runs(study.SCALED, 1)
    assert invariance.judge(runs, window=INTERIOR, scale=True).verdict != "fails"


def test_few_runs_decide_nothing():
    assert judge(study.SCALED, 0, runs=7).verdict == "inconclusive"
    assert judge(LAW, 0, runs=4).verdict == "inconclusive"


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRSD_RUNS", str(tmp_path_factory.mktemp("runs")))
        yield (
            of_specs(invariance, SPEC.with_seeds(range(4)), log_loss=-0.3, workers=1, progress=False),
            grsd.ensemble(SPEC.with_seeds(range(4)), workers=1, progress=False),
        )


def test_runs_are_compared_at_one_loss(measured):
    """Between the snapshots around it, and equal to a snapshot where the loss is that snapshot's."""
    found, runs = measured
    for number, run in enumerate(runs):
        passed = np.log(run.loss / run.start_loss)
        around = run.time.values[[int((passed > -0.3).sum()) - 1, int((passed > -0.3).sum())]]
        assert around[0] <= float(found[number].time) <= around[1]
    exact = invariance.measure(runs[0], log_loss=float(np.log(runs[0].loss[2] / runs[0].start_loss)))
    assert np.allclose(exact.energy, runs[0].energy[:, 2])
    assert np.allclose(exact.coupling, runs[0].coupling[:, 2])
    assert np.isclose(exact.time, runs[0].time[2])


def test_what_is_measured_is_labelled_and_read_back_by_width(measured):
    found, _ = measured
    assert [run.attrs["seed"] for run in found] == [0, 1, 2, 3]
    assert found[0].coupling.dims == ("shell_width", "shell", "shell_from")
    assert found[0].attrs["log_loss"] == -0.3
    assert "versions" in found[0].attrs
    for budgets, shells in zip(widths_of("test", found), SPEC.shells, strict=True):
        assert len(budgets) == 4
        assert {budget.attrs["shell_width"] for budget in budgets} == {shells.width}
        assert np.allclose(np.diff(budgets[0].shell), shells.width)
    low, high = frontier_window(found, 3.0)
    assert np.isclose(high, -np.mean([np.log(run.time) for run in found]))
    assert np.isclose(high - low, 3.0)


def test_the_power_of_few_runs(measured):
    found, _ = measured
    power = invariance.power(found, (4, 8), window=frontier_window(found, 9.0), draws=3)
    assert np.allclose(power.share.sum("verdict"), 1)
    assert (power.share.sel(runs=4, verdict="inconclusive") == 1).all(), "four runs decide nothing"


def test_a_loss_that_was_not_reached_is_refused(measured):
    _, runs = measured
    with pytest.raises(
        ValueError, match=r"^invariance.measure\(log_loss=-50\): architecture residual, depth 2, seed 0 has .*; choose"
    ):
        invariance.measure(runs[0], log_loss=-50.0)
    with pytest.raises(ValueError, match=r"^invariance.judge\(ensemble\): expected at least 1 budgets of runs, got 0$"):
        invariance.judge([], window=INTERIOR)


def test_too_few_or_broken_budgets_are_refused_by_the_call_the_user_wrote():
    runs = study.planted_runs(LAW, 0)
    with pytest.raises(ValueError, match=r"^invariance\.judge\(ensemble\): expected at least 4 runs, got 3$"):
        invariance.judge(runs[:3], window=INTERIOR)
    broken = [run.assign(energy=run.energy * np.nan) for run in runs]
    with pytest.raises(ValueError, match=r"^invariance\.power\(ensemble\): found NaN or infinity in 'energy'"):
        invariance.power(broken, [8], window=INTERIOR)
    with pytest.raises(ValueError, match=r"^invariance\.judge\(observable=\.\.\.\): expected one of"):
        invariance.judge(runs, window=INTERIOR, observable="flux")


def test_interpolation_is_linear_in_the_log_of_the_loss():
    loss = np.exp([-0.5, -1.5])
    data = {"loss": ("time", loss), "start_loss": 1.0, "energy": (("time", "shell"), [[1.0, 2.0], [3.0, 6.0]])}
    run = xr.Dataset(data, {"time": [1.0, 100.0]})
    half = invariance.measure(run, log_loss=-1.0)
    assert half.energy.values.tolist() == [2.0, 4.0]
    assert float(half.time) == pytest.approx(10.0)


def test_power_rises_with_the_runs():
    """Under a planted law more runs hold more often, with a narrower interval; under a broken one more of them fail."""
    held = invariance.power(study.planted_runs(LAW, 0), (8, 32), window=INTERIOR, lawful=True, draws=12)
    assert np.allclose(held.share.sum("verdict"), 1)
    assert float(held.share.sel(runs=32, verdict="holds")) >= float(held.share.sel(runs=8, verdict="holds"))
    assert float(held.share.sel(runs=32, verdict="holds")) > 0.8
    assert float(held.half_width[1]) < 0.7 * float(held.half_width[0])
    broken = study.planted_runs(study.SCALED, 0)
    assert float(invariance.power(broken, (16,), window=INTERIOR, draws=6).share.sel(verdict="fails")[0]) > 0.8


@pytest.mark.parametrize("call", [invariance.judge, lambda ensemble: invariance.power(ensemble, (8,))])
def test_a_verdict_needs_its_window(measured, call):
    """Of runs and of planted budgets alike: what is judged must be named."""
    for given in (measured[0], study.planted_runs(LAW, 0)):
        with pytest.raises(ValueError, match=r"^invariance\.(judge|power)\(window=\.\.\.\): .* got None; what is .*$"):
            call(given)
