"""Networks at a bottleneck: theory from the start alone, kernels that stand still, and what is written once."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from grsd.datasets import power_law
from grsd.evidence import results
from grsd.flow import gradient_flow
from grsd.kernel import tangent_kernel
from grsd.studies.power_law_scaling import bottlenecks
from grsd.studies.power_law_scaling.axes import slope

SMALL = bottlenecks.Bottleneck(
    (4, 8, 16), (2, 4), features=40, width=16, depth=2, pool=120, samples=16, columns=16, end=50.0, seed=3
)


def test_a_network_whose_hidden_layers_are_frozen_is_lazy():
    """Its kernel stands still, so that gradient flow on the weights must give what kernel gradient flow gives."""
    data = bottlenecks._drawn(SMALL)
    network = bottlenecks._network(SMALL, 16)
    network.hidden.requires_grad_(False)
    lacking = bottlenecks._lacking(network, data)
    kernel = tangent_kernel(network, data.inputs).numpy() * len(lacking)
    top = float(np.linalg.eigvalsh(kernel[:8, :8])[-1]) / 8
    flow = gradient_flow(network, data.inputs[:8], data.targets[:8], [50 / top], tolerance=1e-6)
    left = bottlenecks._lacking(flow.snapshots[-1].model, data)[16:]
    assert bottlenecks._lazy(kernel, lacking[:8], lacking[16:], 50.0) == pytest.approx(np.mean(left**2) / 2, rel=1e-4)


def test_theory_knows_neither_what_is_learnt_nor_any_training(monkeypatch):
    """Nonsense in the samples to be learnt, and no gradient flow at hand: the same curves."""
    honest = bottlenecks.theory(SMALL)
    data = bottlenecks._drawn(SMALL)
    spoiled = replace(data, inputs=data.inputs.clone(), targets=data.targets.clone())
    spoiled.inputs[:16], spoiled.targets[:16] = 7.0, -7.0
    monkeypatch.setattr(bottlenecks, "_drawn", lambda spec: spoiled)
    monkeypatch.setattr(bottlenecks, "Descent", None)
    assert bottlenecks.theory(SMALL).equals(honest)
    spoiled.targets[16:] *= 1.1
    assert not bottlenecks.theory(SMALL).equals(honest)


def test_drawn_kernels_and_readouts_follow_the_theory():
    spec = replace(SMALL, pool=600, columns=64)
    expected, found = bottlenecks.theory(spec), bottlenecks.measured(spec)
    assert np.abs(np.log(found.lazy.values / expected.by_samples.values)).mean() < 0.3
    assert np.abs(np.log(found.readout.values / expected.by_width.values)).mean() < 0.15
    assert (found.samples_left < 0.1 * found.by_samples).all()
    assert (np.diff(found.by_samples) < 0).all()


def test_modes_keep_all_the_power():
    units = np.random.default_rng(0).standard_normal((30, 5))
    function = np.random.default_rng(1).standard_normal(30)
    values, power = bottlenecks._modes(units @ units.T, function)
    assert values.size == 5
    assert power.sum() == pytest.approx(np.mean(function**2))


def test_the_data_have_their_spectrum():
    data = power_law(4000, features=6, a=1.0, r=0.5, seed=2)
    assert data.inputs.square().mean(0).numpy() == pytest.approx(
        6 / np.arange(1, 7) / (1 / np.arange(1, 7)).sum(), rel=0.1
    )
    solution = torch.linalg.lstsq(data.inputs, data.targets).solution
    assert (data.inputs @ solution - data.targets).abs().max() < 1e-9
    power = (solution[:, 0] ** 2 * data.inputs.square().mean(0)).numpy()
    assert power / power[0] == pytest.approx(np.arange(1, 7) ** -1.5, rel=0.2)
    assert torch.equal(power_law(10, features=6, a=1.0, r=0.5, seed=2).inputs, data.inputs[:10])
    with pytest.raises(ValueError, match="power_law"):
        power_law(10, a=-1.0)


def test_written_once_and_complete():
    with pytest.raises(FileExistsError, match="forecasts once made are not made again"):
        bottlenecks.write_theories([1000])
    written = bottlenecks.read_losses(bottlenecks.FOLDER)
    assert written.seed.values.tolist() == list(range(1000, 1008))
    assert np.log10(written["size"][-1] / written["size"][0]) >= 1.5 <= np.log10(written.width[-1] / written.width[0])
    assert written.by_samples.dims == ("seed", "size")
    assert written.by_width.dims == ("seed", "width")
    for losses in (written.by_samples, written.by_width):
        assert (np.diff(losses) < 0).all()


def test_distances_are_taken_along_the_axis(monkeypatch):
    """A measured loss that is the written theory times two, size by size."""
    written = bottlenecks.read_losses(bottlenecks.FOLDER).sel(seed=1000)
    doubled = written.rename(by_samples="lazy", by_width="readout") * 2
    monkeypatch.setattr(bottlenecks, "_of_seed", lambda *_: doubled)
    assert bottlenecks.distance(bottlenecks.Comparison("lazy", "by_samples"), 1000) == pytest.approx(np.log(2))
    assert bottlenecks.distance(bottlenecks.Comparison("readout", "by_width"), 1000) == pytest.approx(np.log(2))
    assert bottlenecks.slope_gap(bottlenecks.Comparison("readout", "by_width"), 1000) == pytest.approx(0)


def test_stored_results_follow_from_the_stored_tables():
    written, found = bottlenecks.read_losses(bottlenecks.FOLDER), bottlenecks.read_losses()
    stored = results()
    for claim, name, axis in (
        ("network-samples-slope", "by_samples", "by_samples"),
        ("network-width-readout-slope", "readout", "by_width"),
        ("network-width-slope", "by_width", "by_width"),
    ):
        gaps = [
            abs(slope(found[name].sel(seed=seed, drop=True)) - slope(written[axis].sel(seed=seed, drop=True)))
            for seed in found.seed.values
        ]
        assert gaps == pytest.approx(stored[claim].values)
    gain = np.log(found.by_samples / found.lazy).mean("size")
    assert gain.values == pytest.approx(stored["network-samples-gain"].values)
