"""Interventions on the amplitudes of shells: exact cubics, planted laws, what no law can do."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import grsd
from grsd.conditions import interventions
from grsd.evidence import claims
from grsd.solvable import CubicLattice, ShellLattice
from grsd.studies import interventions as study

EVERYTHING = (-math.inf, math.inf)
SHELLS = grsd.LogShells(1.5, 0.2)
CLOSED, BROKEN = CubicLattice("clock", rest=0.3), CubicLattice("clocks", rest=0.3)
LOCAL = CubicLattice("local", rest=0.3, growth=3.0)


@pytest.fixture(scope="module")
def trained():
    """A module with a frozen layer and two outputs, after a while of learning."""
    data = grsd.digits(24, task="parity")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    model[0].weight.requires_grad_(False)
    targets = torch.cat([data.targets, data.inputs[:, 20:21]], 1)
    return grsd.gradient_flow(model, data.inputs, targets, [0.0, 1.0, 5.0], progress=False)


@pytest.fixture(scope="module")
def found(trained):
    return interventions.responses(trained, shells=SHELLS)


def budget_of(flow, error):
    """The energy budget of the last snapshot if the error were another: M' is computed again."""
    last = flow.snapshots[-1]
    with torch.no_grad():
        outputs = last.model(flow.inputs)
    modes = grsd.spectrum(*grsd.tangent_kernel_and_rate(last.model, flow.inputs, outputs - error))
    return modes, grsd.energy_budget(modes, error, SHELLS)


def changed_error(flow, factors, index):
    """The error with the modes of each shell multiplied by its factor."""
    last = flow.snapshots[-1]
    modes, _ = budget_of(flow, last.error)
    place = np.floor(modes.eigenvalues.clamp(min=modes.floor).log().numpy() / SHELLS.width).astype(int) - index[0]
    g = modes.eigenvectors.T @ last.error.reshape(-1)
    g = g * torch.tensor(factors[np.clip(place, 0, len(index) - 1)])
    return (modes.eigenvectors @ g).reshape(last.error.shape)


def test_nothing_changed_gives_the_budget(found):
    ones = np.ones((1, found.sizes["part"]))
    assert np.allclose(interventions.flux_at(found, ones)[0], found.flux, rtol=1e-11)
    assert np.allclose(found.energy_of.sum("part"), found.energy, rtol=1e-12)
    assert np.allclose(found.density_of.sum("part"), found.density, rtol=1e-12)
    assert np.allclose(np.square(found.amplitude).sum() / 2, found.energy.sum(), rtol=1e-12)


def test_a_draw_is_what_a_new_computation_gives(trained, found):
    """Amplitudes changed by hand, M' and the whole budget computed again from the changed error."""
    factors = np.exp(np.random.default_rng(5).standard_normal(found.sizes["part"]))
    _, budget = budget_of(trained, changed_error(trained, factors, found.shell_index.values))
    assert np.allclose(interventions.flux_at(found, factors[None])[0], budget.flux, rtol=1e-8)
    assert not np.allclose(budget.flux, found.flux, rtol=0.1)
    assert np.allclose(found.energy_of.values @ factors**2, budget.energy, rtol=1e-9)
    assert np.allclose(found.density_of.values @ factors**2, budget.density, rtol=1e-9)
    measured = interventions.intervened(found, draws=8, seed=5)
    assert np.allclose(
        np.sqrt(np.square(measured.amplitudes).sum("shell")), np.sqrt(2 * measured.energies.sum("shell"))
    )


def test_energies_do_not_know_the_sign_of_the_error_and_the_flux_is_odd(trained, found):
    """The parity no-go: at the same weights -e has the energies of e and the opposite flux."""
    error = trained.snapshots[-1].error
    budget, opposite = (budget_of(trained, sign * error)[1] for sign in (1.0, -1.0))
    assert np.allclose(opposite.energy, budget.energy, rtol=1e-12)
    assert np.allclose(opposite.flux, -budget.flux, rtol=1e-8)
    assert np.abs(budget.flux).max() > 0
    both = interventions.flux_at(found, np.array([[1.0], [-1.0]]) * np.ones((2, found.sizes["part"])))
    assert np.allclose(both[0], -both[1], rtol=1e-12)


def test_a_general_cubic_always_fits(found):
    """So a fit of all cubic terms says nothing; only laws of one term are in question."""
    run = interventions.intervened(found, draws=600)
    k, n = run.amplitudes.values, run.sizes["shell"]
    terms = [k[:, a] * k[:, b] * k[:, d] for a in range(n) for b in range(a, n) for d in range(b, n)]
    design = np.stack(terms, 1) / np.std(terms, 1)
    half = len(k) // 2
    assert design.shape[1] < half
    beta = np.linalg.lstsq(design[:half], run.fluxes.values[:half], rcond=None)[0]
    missed = run.fluxes.values[half:] - design[half:] @ beta
    assert (np.square(missed).sum(0) < 1e-10 * np.square(run.fluxes.values[half:]).sum(0)).all()


def planted(lattice, ensemble, networks=8):
    seeds = range(100 * ensemble, 100 * ensemble + networks)
    return [interventions.intervened(one, seed=seed) for seed, one in zip(seeds, lattice.ensemble(seeds), strict=True)]


def test_a_planted_law_is_explained_whole():
    run = planted(replace(CLOSED, rest=0.0), 0, 1)[0]
    assert np.allclose(interventions.explained(run, EVERYTHING)["clock"], 1, atol=1e-10)
    run = planted(replace(BROKEN, rest=0.0), 0, 1)[0]
    explained = interventions.explained(run, EVERYTHING)
    assert np.allclose(explained["clocks"], 1, atol=1e-10)
    assert np.median(explained["clock"]) < 0.5
    run = planted(replace(LOCAL, rest=0.0, growth=8.0), 0, 1)[0]
    assert np.allclose(interventions.explained(run, EVERYTHING)["local"][:-1], 1, atol=0.02)


@pytest.mark.parametrize(("lattice", "law"), [(CLOSED, "clock"), (LOCAL, "local")], ids=["one clock", "local"])
def test_planted_closure_is_told_from_what_does_not_close(lattice, law):
    for number in range(3):
        closed = interventions.judge(planted(lattice, number), window=EVERYTHING, law=law)
        assert closed.verdict == "holds", str(closed)
        broken = interventions.judge(planted(BROKEN, number), window=EVERYTHING, law=law)
        assert broken.verdict == "fails", str(broken)
        noisy = interventions.judge(planted(replace(lattice, rest=3.0), number), window=EVERYTHING, law=law)
        assert noisy.verdict == "fails", str(noisy)


def test_states_of_other_draws_explain_nothing():
    for lattice in (CLOSED, LOCAL, BROKEN):
        found = interventions.judge(planted(lattice, 0), window=EVERYTHING)
        for law, values in found.details.permuted.items():
            assert np.median(values) < 0, law
            assert values.max() < 0.05, law


def test_a_verdict_has_its_power_and_all_laws():
    runs = planted(CLOSED, 0)
    found = interventions.judge(runs, window=EVERYTHING)
    assert found.verdict == "holds"
    assert str(found).startswith("holds: 0.")
    assert "the median R^2 of the law clock is 0." in found.reason
    assert 0.9 < found.power <= 1
    assert found.power_against == "a truth of 0.9 for closed, of 0.4 for not closed"
    assert set(found.details.explained) == set(found.details.verdicts) == {"state", "local", "clock", "clocks"}
    assert found.details.verdicts["local"] == interventions.judge(runs, window=EVERYTHING, law="local").verdict
    assert found.details.boundaries == (11,) * 8
    few = interventions.judge(runs[:7], window=EVERYTHING)
    assert (few.verdict, few.power) == ("inconclusive", 0.0)
    assert "7 networks are fewer than the 8 that a verdict needs" in few.reason


def test_a_snapshot_and_a_module_read_as_the_flow_that_ends_with_them(trained):
    last, batch = trained.snapshots[-1], (trained.inputs, trained.targets)
    found = interventions.measure(trained, shells=SHELLS, draws=40, parameters={"seed": 3})
    assert interventions.measure(last, *batch, shells=SHELLS, draws=40, parameters={"seed": 3}).identical(found)
    bare = interventions.measure(last.model, *batch, shells=SHELLS, draws=40, parameters={"seed": 3})
    assert bare.identical(found.drop_vars("time"))
    assert found.attrs["seed"] == 3
    assert not last.model[0].weight.requires_grad


@pytest.mark.usefixtures("as_users_run_it")
def test_broken_input_is_refused_in_one_line(trained, found):
    with pytest.raises(TypeError, match=r"^interventions\.measure\(history, .*\): a Flow has its own batch; .*$"):
        interventions.measure(trained, trained.inputs)
    with pytest.raises(TypeError, match=r"^interventions\.measure\(history\): expected a grsd\.Flow, or .* got 'x'$"):
        interventions.measure("x")
    with pytest.raises(
        TypeError, match=r"^interventions\.measure\(shells=\.\.\.\): expected LogShells, of one width.*$"
    ):
        interventions.measure(trained, shells=[SHELLS])
    with pytest.raises(ValueError, match=r"^interventions\.measure\(spread=\.\.\.\): .*$"):
        interventions.measure(trained, spread=-1.0)
    run = interventions.intervened(found, draws=10)
    with pytest.raises(ValueError, match=r"^interventions\.judge: expected at least \d+ draws for \d+ shells, got 10$"):
        interventions.judge([run], window=EVERYTHING)
    with pytest.raises(
        ValueError, match=r"^interventions\.judge\(window=\.\.\.\): expected \(low, high\) .* got None; .*$"
    ):
        interventions.judge([run])
    with pytest.raises(ValueError, match=r"^interventions\.judge\(law=\.\.\.\): expected one of .*$"):
        interventions.judge([run], window=EVERYTHING, law="state")
    with pytest.raises(ValueError, match=r"^interventions\.judge: no unmasked boundary of the window .*$"):
        interventions.judge([interventions.intervened(found)], window=(90.0, 91.0))
    with pytest.raises(ValueError, match=r"^interventions\.judge\(ensemble\): .*$"):
        interventions.judge([xr.Dataset()], window=EVERYTHING)
    with pytest.raises(ValueError, match=r"^CubicLattice\(law=\.\.\.\): expected one of .*$"):
        CubicLattice("none")
    with pytest.raises(ValueError, match=r"^CubicLattice\(shells=\.\.\.\): expected at most 40, got 99$"):
        CubicLattice(shells=99)


SPEC = grsd.Spec(width=8, depth=2, task="parity", samples=24, times=(0.5, 30.0, 4), tolerance=1e-3)


@pytest.mark.parametrize("log_loss", [-0.3, -1.0])
def test_networks_are_read_at_one_loss(log_loss):
    data = SPEC.batch()
    found = study.at_loss(SPEC, data, log_loss)
    losses = [
        float(error.square().mean())
        for error in (found.error, SPEC.network(data).double()(data.inputs).detach() - data.targets)
    ]
    assert log_loss - 0.1 < math.log(losses[0] / losses[1]) <= log_loss
    with torch.no_grad():
        assert torch.allclose(found.model(data.inputs) - data.targets, found.error)


@pytest.mark.usefixtures("as_users_run_it")
def test_a_loss_that_is_not_reached_is_said():
    with pytest.raises(
        ValueError, match=r"^at_loss\(log_loss=-50\): Spec\(.*\) does not reach it; give it a later last.*$"
    ):
        study.at_loss(SPEC, SPEC.batch(), -50.0)


def test_a_seed_of_the_networks_is_read_once_for_all_its_claims(tmp_path, monkeypatch):
    monkeypatch.setenv("GRSD_RUNS", str(tmp_path))
    protocol = study.Intervened(replace(SPEC, samples=120), -0.5, draws=200)
    run = study.reading(protocol, 3)
    assert (run.sizes["draw"], run.attrs["seed"]) == (200, 3)
    window = study.window_of(run, protocol.reach)
    assert window[1] == pytest.approx(-math.log(float(run.time)))
    for law in ("local", "clock"):
        value = study.law_explained(replace(protocol, law=law), 3)
        assert value == np.median(interventions.explained(run, window)[law])
    kept = study._kept(run, window)
    at = int(kept[0])
    assert study.flux_bound(protocol, 3) == study.bounds(run, window)[0] >= study.bounds(run, window)[2]
    moved = float(run.time) * abs(float(run.flux[at - 1]))
    assert study.bounds(run, (window[0], float(run.boundary[at - 1])))[0] == pytest.approx(
        moved / float(run.energy[at - 1] + run.energy[at])
    )
    whole = (run.sizes["shell"] + 1,)
    monkeypatch.setattr(study, "FACTORS", whole)
    assert study.neighbour_shares(run, window) == pytest.approx([1.0]), "blocks that hold all shells exchange it all"
    assert len(list(tmp_path.glob("*.nc"))) == 1


def test_a_clock_is_read_from_distant_boundaries():
    """Tasks that obey F = r eps, r of the task: explained whole; r of the task and boundary: not at all."""
    rng = np.random.default_rng(0)
    density, energy = np.exp(0.3 * rng.standard_normal((32, 9))), np.exp(0.3 * rng.standard_normal((32, 10)))
    data = {"density": (("task", "boundary"), density), "energy": (("task", "shell"), energy)}
    data |= {"usable": ("boundary", np.ones(9, bool)), "size": ("task", np.sqrt(2 * energy.sum(1)))}
    clock, own = np.exp(rng.standard_normal((32, 1))), np.exp(rng.standard_normal((32, 9)))
    tasks = {name: xr.Dataset(data | {"flux": (("task", "boundary"), density * rate)}, {"boundary": np.arange(9.0)})
             for name, rate in (("one", clock), ("own", own))}  # fmt: skip
    one, none = (study.across_tasks(tasks[name], EVERYTHING) for name in ("one", "own"))
    assert np.allclose(one["clock"], 1)
    assert np.median(none["clock"]) < 0.1
    assert np.median(one["local"]) < 0.2


def test_tasks_are_halvings_of_the_digits():
    digits = torch.arange(10).repeat(3)
    drawn = [study.halved(digits, task) for task in range(32)]
    assert all(one.sum() == 0 and one.shape == (30, 1) for one in drawn)
    assert len({tuple(one.ravel().tolist()) for one in drawn}) > 28


@pytest.mark.long
def test_many_tasks_of_one_network():
    experiment = SPEC.to_dict() | {"log_loss": -0.3, "tasks": 4}
    run = study.measured_tasks(experiment)
    assert run.sizes["task"] == 4
    assert np.allclose(run["size"] ** 2 / 2, run.energy.sum("shell"), rtol=1e-6)


def test_runs_that_obey_the_law_fail_where_their_states_hardly_differ():
    """r / r_perm is about sqrt(w / (w + 2 v)) for lattices whose flux is U phi with noise: no power below v = 1.5 w."""
    for swell, hidden in ((0.1, 1.0), (0.5, 0.3)):
        lattice = ShellLattice(swell=swell, hidden=hidden, reach=0.05, smooth=1.0, extent=16.0)
        found = [study.surrogate(lattice.budgets(range(24)), EVERYTHING, 1, seed) for seed in range(5)]
        ratio = np.mean([one["ratio"] for one in found])
        assert ratio == pytest.approx(found[0]["expected"], abs=0.12)
        assert (ratio > 0.5) == (found[0]["v"] < 1.5 * found[0]["w"])


def test_the_rules_of_the_claims_are_the_conditions_rule():
    known = claims()
    for name in study.CELLS:
        for law in ("local", "clock"):
            rule = known[f"closure-{law}-{name}"].judged
            assert (rule.threshold, rule.fails_beyond) == (
                interventions.RULE.threshold,
                interventions.RULE.fails_beyond,
            )
            assert study.MEASUREMENTS[f"closure-{law}-{name}"].protocol.law == law
    assert study.power_of(interventions.RULE, 0.1, 0.1) == pytest.approx(0.5)
