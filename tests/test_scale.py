"""What runs would cost: the prediction against the measured CPU seconds, and paper figures against known counts."""

import time
from dataclasses import replace

import numpy as np
import pytest

from grsd import cli
from grsd.runs import Spec, train
from grsd.workflow import GPUS, predicted, report, resnet18_table
from grsd.workflow.gpus import SHARE
from grsd.workflow.scale import WITHIN, Cost

SMALL = Spec(task="parity", samples=80, width=24, depth=4, times=(0.4, 16.0, 8), tolerance=1e-3)


def test_the_prediction_is_within_its_factor_of_the_measured_cpu_seconds():
    (cost,) = predicted([SMALL])
    began = time.process_time()
    run = train(SMALL, progress=False)
    seconds = time.process_time() - began
    assert 1 / WITHIN < cost.seconds / seconds < WITHIN
    assert 1 / 2 < cost.gradients / float(run.gradient_evaluations[-1]) < 2
    assert cost.snapshots == run.sizes["time"]


def test_runs_that_differ_in_their_seed_are_one_kind():
    tiny = replace(SMALL, samples=8, width=4, depth=1, times=(0.4, 2.0, 2))
    one, other = predicted([*tiny.with_seeds(range(3)), replace(tiny, depth=2)], GPUS["H100"])
    assert (one.runs, other.runs) == (3, 1)
    assert other.gradient > one.gradient > GPUS["H100"].launch, "a deeper network launches more"
    assert one.memory == 8 * 8**2 * 8 + GPUS["H100"].context


def test_the_report_adds_up():
    cost = Cost(SMALL, 4, 100, 8, 0.1, 10.0, 2**30)
    assert cost.seconds == 100
    lines = report([cost], 2).splitlines()
    assert lines[0].endswith("4 runs of 100 gradients and 8 snapshots: 1e+02 s each, 1.00 GiB a job")
    assert lines[1] == (
        "4 runs: 6.67 min (CPU time, measured unit costs); 2 at a time: 3.33 min, 2.0 GiB"
    )  # fmt: skip
    assert "estimated, unmeasured" in report([cost], 8, GPUS["H100"])
    assert "8 at a time: 1e+02 s" in report([cost], 8), "no shorter than its longest run"


def test_resnet18_on_paper():
    table = resnet18_table().set_index(["samples", "gpus"])
    parameters = 11_173_962
    one = table.loc[(1000, 1)]
    products = one.kernel_s * (1 - one.gradients_share) * SHARE * 67e12
    np.testing.assert_allclose(products, 1e4**2 * parameters, rtol=1e-9)
    assert one.kernel_gib == pytest.approx(1e8 * 8 / 2**30)
    assert list(table.index[~table.fits]) == [(10_000, 1)], "the kernel alone has 80 GB"
    seconds = table.kernel_s.unstack("gpus")
    assert (seconds[1] / seconds[64] <= 64).all()
    assert (np.diff(seconds.values) < 0).all()
    assert np.isnan(table.loc[(10_000, 1)].decomposition_s), "three matrices of 80 GB do not fit"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--gpu", "Z80"], "grsd scale: --gpu: expected one of ('H200', 'H100', 'A100', 'V100', 'RTX4090'), got 'Z80'"),
        (["--jobs", "0"], "grsd scale: --jobs: expected "),
        (["--only", "02"], "grsd scale: --only: these notebooks list no runs before they run; 06, 07 and 08 do"),
    ],
)
def test_wrong_requests_are_refused_in_one_line(arguments, line, capsys):
    assert cli.main(["scale", *arguments]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(line)


def test_the_command_says_what_a_notebook_would_cost(capsys):
    tiny = ["samples=8", "width=4", "depths=[1]", "seeds=3", "snapshots=2"]
    settings = [word for text in tiny for word in ("--set", text)]
    assert cli.main(["scale", "--only", "06", *settings, "--gpu", "H100"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3, "two architectures and the sum"
    assert lines[-1].startswith("6 runs: ")
