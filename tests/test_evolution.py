import numpy as np
import pytest
import torch

import grsd
from grsd.conditions import evolution, of_specs
from grsd.shells import LogShells
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
        verdicts[case.__name__] = evolution.judge(runs)
    assert verdicts["controlled"].verdict == "holds"
    assert verdicts["sudden"].verdict == "fails"
    assert str(verdicts["controlled"].details).startswith("rho on time")
    assert study.exact_control(study.Exact("controlled"), 1) < 1 < study.exact_control(study.Exact("sudden"), 1)
    few = evolution.judge(runs[:7])
    assert (few.verdict, few.power) == ("inconclusive", 0.0)
    assert few.reason.endswith("7 seeds are fewer than the 8 that a verdict needs")
    with pytest.raises(ValueError, match="expected at least 2 seeds, got 1"):
        evolution.judge(runs[:1])


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
    judged = evolution.judge(planted(0.3, -0.2, 0.5, 0))
    for of, truth in {"time": 0.3, "shell": -0.2, "depth": 0.5}.items():
        low, high = judged.details.slope_intervals["rho", of]
        assert judged.details.slopes["rho", of] == pytest.approx(truth, abs=0.01)
        assert low - 0.01 < truth < high + 0.01
    assert judged.verdict == "fails"
    assert judged.reason.startswith("|slope| of log(t ")
    assert judged.interval[0] > 0.1 == evolution.SLOPE
    assert evolution.judge(planted(0.02, -0.02, 0.02, 1)).verdict == "holds"
    assert evolution.judge(planted(0.1, 0.0, 0.0, 2, noise=0.3)).verdict == "inconclusive"


def test_another_exponent_takes_its_trend_out():
    """t rho ~ x^(b-1), x = lambda t, for b = 1.3."""
    measured = planted(0.3, 0.3, 0.0, 3)
    assert evolution.judge(measured).verdict == "fails"
    assert evolution.judge(measured, exponent=1.3).verdict == "holds"


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
