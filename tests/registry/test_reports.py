"""What a report says beyond the error: the same at commit and at any later look."""

import pytest
import torch

import share_registry as sr
from share_registry.algebra.rate_distortion import bound
from tests.registry.conftest import DEMO

SLACK = 0.01
"""The source's energies and those of what is stored differ by the error at most."""


def test_a_report_has_the_bits_per_parameter_beside_the_gaussian_bound_for_its_error(
    registry: sr.Registry,
) -> None:
    report = registry.commit(DEMO / "wn-pos-gloss" / "v1", task="gloss", budget=0.05).reports[
        "gloss"
    ]
    source = registry.checkout("gloss@v1")
    pairs = source.factor_pairs()
    assert report.bits_bound == pytest.approx(bound(pairs, budget=report.error), rel=SLACK)
    assert report.bits_bound is not None
    assert report.bits_per_parameter is not None
    assert report.bits_bound < report.bits_per_parameter < 1.3 * report.bits_bound
    parameters = sum(tensor.numel() for tensor in source.tensors.values())
    assert report.bits_per_parameter == pytest.approx(
        8 * sum(module.bytes for module in report.modules) / parameters, rel=SLACK
    )


def test_a_later_look_says_the_same(registry: sr.Registry) -> None:
    commit = registry.commit(DEMO / "wn-pos-gloss" / "v1", task="gloss")
    later = registry.show(commit.ref).reports["gloss"]
    assert (later.bits_per_parameter, later.bits_bound) == (
        commit.reports["gloss"].bits_per_parameter,
        commit.reports["gloss"].bits_bound,
    )
    assert " bits per parameter (" in str(registry.show(commit.ref))


def test_where_nothing_is_lost_there_is_no_bound_and_a_log_has_neither(
    registry: sr.Registry,
) -> None:
    report = registry.commit(DEMO / "wn-pos-gloss" / "v1", task="gloss", budget=0).reports["gloss"]
    assert (report.bits_per_parameter, report.bits_bound) == (torch.float32.itemsize * 8, None)
    report = registry.log(task="gloss")[0].reports["gloss"]
    assert (report.bits_per_parameter, report.bits_bound) == (None, None)
