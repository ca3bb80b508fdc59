"""Couplings beyond growth: what is growth only, what is not, and what follows a law."""

import math
from collections import Counter

import numpy as np
import pytest
from scipy.optimize import least_squares

import grsd
from grsd.laws import beyond_growth, growth_power, growth_surrogate
from grsd.laws.beyond import NEGLIGIBLE, VERDICTS
from grsd.laws.crossed import crossed_values
from grsd.laws.ensemble import mean_interval
from grsd.shells import LogShells, energy_budget
from grsd.solvable import PlantedShells

SHELLS, WINDOW, RUNS = LogShells(1.0, 0.1), (-11.0, -1.0), 24
LAW = {"exponent": 1.5, "kappa": (1.0, 0.4), "scale": 0.1, "noise": 0.3, "modes": 36, "shells": SHELLS}
KINKED = LAW | {"bend": (-6.0, 2.0)}
PERIODIC = LAW | {"wiggle": 0.4, "period": 3.0}
GROWING = LAW | {"scale": 0.4, "noise": 0.1}


def runs(settings, number=0, count=RUNS):
    return PlantedShells(**settings).budgets(range(1000 * number, 1000 * number + count), SHELLS)


def judged(budgets):
    return beyond_growth(budgets, window=WINDOW)


def by_hand(budgets):
    """K, z and weights of the pairs in the window, from the definition."""
    first = budgets[0]
    inner = [a for a in range(1, first.sizes["shell"] - 1) if -11 <= first.shell_index[a] < -1]
    pairs = [(a, b) for b in inner for a in inner if 1 <= a - b <= 2]
    x = np.array([(first.shell.values[a] + first.shell.values[b]) / 2 for a, b in pairs])
    root = np.array([[math.sqrt(run.energy[a] * run.energy[b]) for a, b in pairs] for run in budgets])
    k, z = (
        np.array([[run[name].values[pair] for pair in pairs] for run in budgets]) / root
        for name in ("coupling", "scale_coupling")
    )
    distance = np.array([a - b for a, b in pairs])
    near = distance == 1
    line = np.polyfit(x[near], np.log(np.square(k[:, near]).mean(0)), 1)
    return k, z, np.exp(-np.polyval(line, x)), x, distance


def crossed(values, weights):
    count = len(values)
    return sum((weights * values[i] * values[j]).sum() for i in range(count) for j in range(count) if i != j)


def test_the_share_by_its_definition():
    budgets = runs(LAW, count=6)
    found = judged(budgets)
    k, z, w, _, distance = by_hand(budgets)
    r = (w * k * z).sum(1) / (w * z * z).sum(1)
    rest = k - r[:, None] * z
    assert np.allclose(found.rates, r)
    assert found.share == pytest.approx(crossed(rest, w) / crossed(k, w))
    assert found.values.mean() == pytest.approx(found.share)
    assert found.free.values.mean() == pytest.approx(found.free.share)
    assert sorted(found.separations) == sorted(distance)
    assert (found.verdict, found.runs) == ("inconclusive", 6)
    assert found.reason.startswith("6 runs are fewer than the 8 that a verdict needs")


def test_the_law_by_an_independent_fit():
    """Least squares of the couplings on law and growth, a rate for every run, all at once."""
    budgets = runs(LAW | {"wiggle": 0.2}, count=8)
    found = judged(budgets).free
    k, z, w, x, distance = by_hand(budgets)

    def residual(p):
        law = p[distance] * np.exp((p[0] - 1) * (x - x.mean()))
        return (np.sqrt(w) * (k - law - p[3:, None] * z)).ravel()

    fitted = least_squares(residual, [1.4, 0.05, 0.02, *[0.1] * 8], x_scale=[1, 0.01, 0.01, *[0.1] * 8], xtol=1e-13).x
    assert found.exponent == pytest.approx(fitted[0], abs=1e-3)
    assert found.amplitudes == pytest.approx(fitted[1:3], rel=1e-2)


def test_an_exact_growth_passes_by_construction():
    """M' = r M with an r for every run: no remainder, so this control cannot fail; the surrogate can."""
    found = judged(
        [budget for r in range(8) for budget in runs(LAW | {"kappa": (), "shells": None, "scale": 0.1 + r}, r, 1)]
    )
    assert found.verdict == "growth only"
    assert (found.share, found.share_interval) == (0.0, (0.0, 0.0))
    assert np.allclose(found.rates, 0.1 + np.arange(8))
    assert math.isnan(found.free.share)


def test_a_real_kernel_that_only_grows():
    data = grsd.digits(60)
    budgets = []
    for seed in range(8):
        model = grsd.Perceptron(64, 10, width=8, depth=3, seed=seed).double()
        kernel = grsd.tangent_kernel(model, data.inputs)
        error = (model(data.inputs) - data.targets).detach()
        budgets.append(energy_budget(grsd.spectrum(kernel, (0.2 + 0.1 * seed) * kernel), error, LogShells(0.5, 0.1)))
    found = beyond_growth(budgets, window=(-6.0, 0.0))
    assert found.verdict == "growth only"
    assert np.allclose(found.rates, 0.2 + 0.1 * np.arange(8))


def test_verdicts_on_planted_ensembles():
    """One ensemble of each kind; the long test counts them."""
    law, kinked, periodic = (judged(runs(settings)) for settings in (LAW, KINKED, PERIODIC))
    assert law.verdict == "non-trivial invariance"
    assert law.share_interval[0] > 0.1
    assert law.free.exponent == pytest.approx(1.5, abs=0.1)
    assert law.strict.share_interval[0] > NEGLIGIBLE > law.free.share_interval[1]
    assert kinked.verdict == periodic.verdict == "beyond growth"
    assert kinked.difference == pytest.approx(0.5, abs=0.15)
    assert "b differs between the halves of the window" in kinked.reason
    assert "D_rest^2 lies in [" in periodic.reason
    assert judged(runs(LAW, count=23)).reason.endswith("not by a law: 23 runs are fewer than 24")
    assert all(item.verdict in VERDICTS for item in (law, kinked, periodic))
    assert str(law).startswith("non-trivial invariance: D_0^2 = ")


def test_the_surrogate_is_growth_only():
    budgets = runs(GROWING)
    found = judged(budgets)
    assert found.verdict == "beyond growth"
    surrogate = growth_surrogate(budgets, 0, window=WINDOW)
    assert judged(surrogate).verdict == "growth only"
    k, z, *_ = by_hand(budgets)
    turned, same_z, *_ = by_hand(surrogate)
    rest = k - found.rates[:, None] * z
    signs = np.sign(((turned - found.rates[:, None] * z) * rest).sum(1))
    assert set(signs) == {-1.0, 1.0}
    assert np.allclose(same_z, z)
    assert np.allclose(turned, found.rates[:, None] * z + signs[:, None] * rest)
    for budget in surrogate:
        through = [budget.coupling.values[c:, :c].sum() for c in range(1, budget.sizes["shell"])]
        assert np.allclose(through, budget.flux, atol=1e-12 * float(np.abs(budget.flux).max()))
        assert np.allclose(budget.velocity, budget.flux / budget.density)


def test_a_half_of_the_window_with_too_few_pairs_leaves_the_share_judged():
    found = beyond_growth(runs(LAW), window=(-7.0, -3.0))
    assert found.verdict == "beyond growth"
    assert "a half of the window has too few pairs for b" in found.reason
    assert np.isnan([found.difference, *found.halves]).all()


@pytest.mark.parametrize(("size", "least", "most"), [(0.0, 1.0, 1.38), (0.3, 0.9, 1.1), (1.0, 0.9, 1.1)])
def test_the_standard_error_of_a_share(size, least, most):
    """Over the spread of the shares of 400 ensembles of 24 runs: the jackknife has 1.52 at 0."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(400):
        rest = size + rng.normal(size=(24, 4))
        whole = np.concatenate([rest, np.full((24, 1), 10.0)], axis=1)
        values = crossed_values(rest @ rest.T, whole @ whole.T)
        found.append((values.mean(), values.std(ddof=1) / math.sqrt(24)))
    shares, errors = np.array(found).T
    assert least <= math.sqrt(np.square(errors).mean()) / shares.std() <= most
    assert mean_interval(values, 0.95)[1] == pytest.approx(
        shares[-1] + np.array([-1, 1]) * 2.0687 * errors[-1], rel=1e-4
    )


def test_couplings_with_nothing_in_common_decide_nothing():
    """Runs that cancel pairwise: D_0^2 is a part of what the runs have in common, and here that is nothing."""
    budgets = runs(GROWING, count=8)
    turned = [run.assign(coupling=sign * run.coupling) for run, sign in zip(budgets, [1, -1] * 4, strict=True)]
    found = judged(turned)
    assert found.verdict == "inconclusive"
    assert found.reason == "the squared couplings common to the runs are not told from 0, and D_0^2 is a part of them"


def test_an_enlarged_surrogate_grows_as_much_as_the_couplings_are_large():
    """It differs from the other by one number times z, the same in all runs: couplings as large as the common ones."""
    budgets = runs(LAW | {"scale": 0.0}, count=16)
    plain, large = (by_hand(growth_surrogate(budgets, 0, window=WINDOW, enlarged=flag))[0] for flag in (False, True))
    k, z, w, *_ = by_hand(budgets)
    r = (w * k * z).sum(1) / (w * z * z).sum(1)
    added = math.sqrt(crossed(k, w) / crossed(z, w)) - r.mean()
    assert added > 0.005
    assert np.allclose(large - plain, added * z)


def test_the_power_of_the_share():
    budgets = runs(GROWING, count=8)
    none, some = (growth_power(budgets, (8, 24), share=share, window=WINDOW, draws=40) for share in (0.0, 0.3))
    assert np.allclose(none.outcome_share.sum("outcome"), 1)
    assert float(none.outcome_share.sel(outcome="beyond growth").max()) <= 0.05
    assert float(none.outcome_share.sel(runs=24, outcome="growth only")) >= 0.9
    assert float(some.outcome_share.sel(runs=24, outcome="beyond growth")) >= 0.9
    assert float(none.half_width.sel(runs=24)) < float(none.half_width.sel(runs=8))


@pytest.mark.long
@pytest.mark.parametrize(
    ("settings", "verdict", "least", "most"),
    [
        (LAW, "non-trivial invariance", 15, 16),
        (KINKED, "non-trivial invariance", 0, 1),
        (PERIODIC, "non-trivial invariance", 0, 1),
    ],
    ids=["law", "kinked", "periodic"],
)
def test_how_often_planted_ensembles_follow_a_law(settings, verdict, least, most):
    counts = Counter(judged(runs(settings, number)).verdict for number in range(1, 17))
    assert least <= counts[verdict] <= most, counts


@pytest.mark.long
def test_how_often_the_surrogate_is_growth_only():
    made = [growth_surrogate(runs(GROWING, number), number, window=WINDOW) for number in range(1, 17)]
    counts = Counter(judged(budgets).verdict for budgets in made)
    assert counts["growth only"] >= 14, counts
    assert counts["beyond growth"] + counts["non-trivial invariance"] == 0, counts


@pytest.mark.usefixtures("as_users_run_it")
def test_refusals():
    budgets = runs(LAW, count=4)
    refusals = {
        "beyond_growth(ensemble): expected at least 5 unmasked pairs in the window, got 3": (
            lambda: beyond_growth(budgets, window=(-6.0, -3.0))
        ),
        "beyond_growth(ensemble): expected at least 4 runs, got 3": lambda: judged(budgets[:3]),
        "beyond_growth(ensemble): 'scale_coupling' is missing; make the budget from grsd.spectrum(kernel, rate)": (
            lambda: judged([budgets[0].drop_vars("scale_coupling"), *budgets[1:]])
        ),
        "beyond_growth(k_max=...): expected fewer than the 4 runs, got 4": lambda: beyond_growth(budgets, k_max=4),
        "growth_surrogate(ensemble): expected couplings of neighbours other than 0 at 2 or more positions": (
            lambda: growth_surrogate([run.assign(coupling=0 * run.coupling) for run in budgets], 0, window=WINDOW)
        ),
    }
    for line, wrong in refusals.items():
        with pytest.raises(ValueError, match="growth") as refused:
            wrong()
        assert str(refused.value) == line
