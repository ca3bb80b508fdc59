import numpy as np
import pytest
import torch

import grsd
from grsd.conditions import evolution, of_specs
from grsd.shells import LogShells
from grsd.solvable import DiagonalNet
from grsd.studies import jacobian_evolution as study

SHELLS = LogShells(1.0, 0.1)


def random_spectrum(seed=0, size=40):
    rng = np.random.default_rng(seed)
    vectors = np.linalg.qr(rng.standard_normal((size, size)))[0]
    values = np.exp(np.linspace(-6, 0, size) + 0.01 * rng.standard_normal(size))
    rate = rng.standard_normal((size, size))
    kernel, rate = (torch.as_tensor(m) for m in (vectors @ np.diag(values) @ vectors.T, rate + rate.T))
    return (kernel + kernel.T) / 2, rate


def test_a_common_scale_gives_its_rate():
    """M' = r M: rho is r times the largest weight in the shell, omega at most r."""
    kernel, _ = random_spectrum()
    found = evolution.shell_rates(grsd.spectrum(kernel, 0.3 * kernel), SHELLS)
    kept = found.rho.notnull()
    assert kept.sum() >= 4
    assert np.allclose(found.rho[kept], 0.3, rtol=1e-2)
    assert (found.omega[kept] <= 0.3 * (1 + 1e-9)).all()
    assert (found.omega[kept] > 0.1).all()


def test_omega_is_the_rate_of_the_shells_own_window():
    """Against a central difference of w_a(M + t M') in full matrices."""
    kernel, rate = random_spectrum(1)
    found = evolution.shell_rates(grsd.spectrum(kernel, rate), SHELLS)

    def windows(matrix):
        values, vectors = torch.linalg.eigh(matrix)
        edges = torch.as_tensor(found.shell_index.values[1:] * 1.0)
        weights = SHELLS.derivatives(values.log(), edges, 0)[0]
        return [vectors @ torch.diag(w) @ vectors.T for w in weights]

    step = 1e-6
    pairs = zip(windows(kernel + step * rate), windows(kernel - step * rate), strict=True)
    slow = [float(torch.linalg.matrix_norm((b - a) / (2 * step), 2)) * 0.1 * np.sqrt(2 * np.pi) for b, a in pairs]
    kept = found.omega.notnull().values
    assert np.allclose(found.omega.values[kept], np.array(slow)[kept], rtol=1e-4)


def test_rho_of_a_sharp_shell_is_the_norm_of_its_block():
    kernel, rate = random_spectrum(2)
    modes = grsd.spectrum(kernel, rate)
    found = evolution.shell_rates(modes, LogShells(1.0, 1e-4))
    s = modes.eigenvalues.log().numpy()
    relative = modes.rate.numpy() / np.exp((s[:, None] + s[None, :]) / 2)
    for a, value in zip(found.shell_index.values, found.rho.values, strict=True):
        if np.isfinite(value):
            inside = (s >= a) & (s < a + 1)
            assert np.isclose(value, np.abs(np.linalg.eigvalsh(relative[np.ix_(inside, inside)])).max(), rtol=1e-6)


def test_rotation_between_degenerate_modes_is_finite():
    kernel = torch.diag(torch.tensor([0.05, 0.05, 0.5, 0.5, 0.5, 2.0, 2.0], dtype=torch.float64))
    rate = torch.ones(7, 7, dtype=torch.float64)
    found = evolution.shell_rates(grsd.spectrum(kernel, rate), SHELLS)
    assert np.isfinite(found.omega.sel(shell=-0.5))


def test_a_rate_is_needed():
    with pytest.raises(ValueError, match=r"shell_rates\(decomposed\): expected a spectrum with its rate"):
        evolution.shell_rates(grsd.spectrum(random_spectrum()[0]), SHELLS)


@pytest.mark.parametrize("seed", [0, 3])
def test_the_projected_network_reads_its_own_velocity(seed):
    run = study.controlled(seed)
    rng = np.random.default_rng(seed)
    net = study.ProjectedTwoLayer(alpha=rng.uniform(1, 3), beta=rng.uniform(0.2, 0.8))
    for time in run.time.values[[0, -1]]:
        truth = time * net.relative_velocity(time)
        assert np.allclose(run.t_rho.sel(time=time).dropna("shell"), truth, rtol=0.02)


def test_verdicts_where_the_answer_is_known():
    verdicts = {}
    for case in (study.controlled, study.sudden):
        runs = [case(seed) for seed in range(8)]
        verdicts[case.__name__] = evolution.judge_slopes(runs)
    assert verdicts["controlled"].verdict == "holds"
    assert verdicts["sudden"].verdict == "fails"
    assert str(verdicts["controlled"].details).startswith("rho on time")
    assert study.exact_control(study.Exact("controlled"), 1) < 1 < study.exact_control(study.Exact("sudden"), 1)
    few = evolution.judge_slopes(runs[:7])
    assert (few.verdict, few.power) == ("inconclusive", 0.0)
    assert "7 seeds are fewer than the 8 that a verdict needs" in few.reason
    with pytest.raises(ValueError, match="expected at least 2 seeds, got 1"):
        evolution.judge_slopes(runs[:1])
    deeper = [runs[0].assign_attrs(depth=2), *runs[1:]]
    with pytest.raises(ValueError, match=r"judge_slopes\(ensemble\): .* one depth without seed"):
        evolution.judge_slopes(deeper)


def planted(slope_time, slope_shell, slope_depth, seed, noise=0.1):
    rng = np.random.default_rng(seed)
    runs = []
    for depth in (4, 32):
        for number in range(8):
            s, t = np.arange(-5.0, 0.0), np.geomspace(1, 100, 5)
            log = slope_time * np.log(t)[:, None] + slope_shell * s + slope_depth * np.log(depth) - 2
            log = log + noise * rng.standard_normal(log.shape)
            data = {f"t_{name}": (("time", "shell"), np.exp(log)) for name in evolution.RELATIVE_RATES}
            runs.append(study.xr.Dataset(data, {"time": t, "shell": s}, {"depth": depth, "seed": number}))
    return runs


def test_planted_slopes_come_back():
    judged = evolution.judge_slopes(planted(0.3, -0.2, 0.5, 0))
    for of, truth in {"time": 0.3, "shell": -0.2, "depth": 0.5}.items():
        low, high = judged.details.slope_intervals["rho", of]
        assert judged.details.slopes["rho", of] == pytest.approx(truth, abs=0.01)
        assert low - 0.01 < truth < high + 0.01
    assert judged.verdict == "fails"
    assert judged.reason.startswith("|slope| of log(t ")
    assert judged.interval[0] > 0.1 == evolution.SLOPE
    assert evolution.judge_slopes(planted(0.02, -0.02, 0.02, 1)).verdict == "holds"
    assert evolution.judge_slopes(planted(0.1, 0.0, 0.0, 2, noise=0.3)).verdict == "inconclusive"


def test_another_exponent_takes_its_trend_out():
    """t rho ~ x^(b-1), x = lambda t, for b = 1.3."""
    measured = planted(0.3, 0.3, 0.0, 3)
    assert evolution.judge_slopes(measured).verdict == "fails"
    assert evolution.judge_slopes(measured, exponent=1.3).verdict == "holds"


def test_a_network(tmp_path, monkeypatch):
    monkeypatch.setenv("GRSD_RUNS", str(tmp_path))
    spec = study.replace(study.NETWORK, samples=20, width=8, depth=2, times=(0.5, 4.0, 3))
    runs = of_specs(evolution, spec.with_seeds([0, 1]), workers=1, progress=False)
    measured = evolution.gather(runs)
    assert set(measured.seed.values) == {0, 1}
    assert (measured.time >= 1 - 1e-9).all()
    assert (measured.t_rho > 0).all()
    assert "versions" in measured.attrs
    with pytest.raises(ValueError, match=r"^of_specs\(specs\): expected at least 1 grsd.Spec, got 0$"):
        of_specs(evolution, [])


def of_rates(seed, velocity):
    """Eigenvalues drawn between e^-9 and 1 that move at ``velocity(eigenvalues, time)``."""
    values = np.exp(np.sort(np.random.default_rng(seed).uniform(-9, 0, 110)))
    states = (
        (t, grsd.Spectrum(torch.as_tensor(values), torch.eye(110).double(), torch.diag(rate), 1e-13))
        for t in np.geomspace(1, 100, 5)
        for rate in [torch.as_tensor(velocity(values, t))]
    )
    return evolution.along(states, SHELLS, top=1.0, seed=seed)


def diagonal(seed, depth):
    start = float(np.random.default_rng(seed).uniform(0.05, 0.3))
    net = DiagonalNet(depth, a=1.1, start=start, modes=110)
    top = float(net.eigenvalues(0.0).max())
    states = ((time, grsd.spectrum(*net.matrices(time)[:2])) for time in np.geomspace(1, 100, 5) / top)
    return evolution.along(states, SHELLS, top=top, seed=seed)


@pytest.mark.parametrize(
    "case",
    [
        lambda seed: of_rates(seed, lambda m, t: 0.3 * m**0.8 * t**-1.2),
        lambda seed: of_rates(seed, lambda m, t: 0.3 * m**1.5 * t**-0.5),
        lambda seed: of_rates(seed, lambda m, t: 0.3 * m**2),
        lambda seed: diagonal(seed, 2),
        lambda seed: diagonal(seed, 4),
    ],
    ids=["b = 0.8", "b = 1.5", "b = 2", "diagonal, depth 2", "diagonal, depth 4"],
)
def test_covariant_models_have_no_trend(case):
    runs = [case(seed) for seed in range(8)]
    found = evolution.eta(runs)
    assert abs(found.value) <= 0.05
    assert (found.verdict, found.seeds, len(found.without)) == ("holds", 8, 8)
    assert found.covariant == (found.interval[0] <= 0 <= found.interval[1])
    assert evolution.judge(runs).verdict == "holds"
    assert abs(np.mean([evolution.eta_of(run) for run in runs])) <= 0.05
    assert max(evolution.largest_of(run) for run in runs) == found.largest


def test_omega_of_a_power_law_has_no_trend():
    found = evolution.eta([of_rates(seed, lambda m, t: 0.3 * m**1.5 * t**-0.5) for seed in range(8)], rate="omega")
    assert abs(found.value) <= 0.05


def test_a_small_constant_rate_is_controlled():
    runs = [of_rates(seed, lambda m, t: 1e-6 * m) for seed in range(8)]
    found = evolution.eta(runs)
    assert found.value == pytest.approx(1, abs=0.01)
    assert found.largest < 0.1
    assert found.verdict == "holds"
    judged = evolution.judge(runs)
    assert (judged.verdict, judged.details) == ("holds", found)
    assert judged.estimate == found.supremum
    assert judged.reason.startswith("the largest t rho below the frontier, mean over seeds, is ")
    assert evolution.judge_slopes(runs).verdict == "fails", "the older rule refuses it"


def test_broken_evolution_is_refused():
    """A constant M' that is not small; a rate above 3; and, with wide seeds or few, no verdict."""
    trend = [of_rates(seed, lambda m, t: 0.01 * m) for seed in range(8)]
    assert evolution.eta(trend).verdict == "fails"
    judged = evolution.judge(trend)
    assert judged.verdict == "fails"
    assert judged.reason.startswith("eta, the trend of t rho at fixed lambda t, is ")
    assert judged.interval[0] > evolution.TREND
    fast = evolution.eta([of_rates(seed, lambda m, t: 5.0 * m / t) for seed in range(8)])
    assert (fast.verdict, fast.value) == ("fails", pytest.approx(0, abs=1e-4))
    assert fast.supremum > 3
    assert evolution.eta(trend[:7]).verdict == "inconclusive"


def test_eta_is_the_slope_beside_bins():
    """Planted: log(t rho) = .3 log t + noise has eta = .3; .3 (log t + s) has 0. Against least squares with dummies."""
    runs = [run.assign_attrs(shell_width=1.0) for run in planted(0.3, 0.0, 0.4, 0)]
    found = evolution.eta(runs)
    assert found.value == pytest.approx(0.3, abs=0.05)
    assert found.interval[0] < 0.3 < found.interval[1]
    points = evolution.gather(runs)
    below = points.isel(point=(points.shell + np.log(points.time)).values < 0)
    bins = np.floor((below.shell + np.log(below.time)).values) + 100 * below.depth.values
    design = np.column_stack([np.log(below.time.values), bins[:, None] == np.unique(bins)])
    assert found.value == pytest.approx(np.linalg.lstsq(design, np.log(below.t_rho.values), rcond=None)[0][0])
    covariant = [run.assign_attrs(shell_width=1.0) for run in planted(0.3, 0.3, 0.4, 1)]
    assert abs(evolution.eta(covariant).value) < 0.05


@pytest.mark.usefixtures("as_users_run_it")
def test_eta_refuses_what_it_cannot_read():
    runs = [run.assign_attrs(shell_width=1.0) for run in planted(0.3, 0.0, 0.0, 0)]
    refusals = {
        "evolution.eta(ensemble): expected at least 2 seeds with points below the frontier, got 1": runs[:1],
        "evolution.eta(ensemble): expected a number in the attribute 'shell_width', got None": planted(0, 0, 0, 0),
        "evolution.eta(ensemble): expected two times below the frontier in some shell-wide bin of lambda t": [
            run.isel(time=[0]) for run in runs
        ],
        "evolution.eta(ensemble): expected one shell width above 0 in all runs, got [1.0, 2.0]": [
            runs[0].assign_attrs(shell_width=2.0), *runs[1:]
        ],
    }  # fmt: skip
    for line, wrong in refusals.items():
        with pytest.raises(ValueError, match="eta") as refused:
            evolution.eta(wrong)
        assert str(refused.value) == line
