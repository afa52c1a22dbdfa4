"""Analyze: planted kinship is named, bytes are a commit's, what is not shared is not praised."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

import share_registry as sr
from share_registry.algebra.comparison import connected_parts
from share_registry.catalog.queries import version_lookups
from share_registry.exchange.adapter import Adapter
from share_registry.names import Digest
from share_registry.registry.analysis.analyze import analyze
from share_registry.values.analyses import Analysis
from share_registry.values.documents import document
from tests.registry.conftest import DEMO
from tests.registry.families import (
    adapter_from_rows,
    change_gauge,
    continued,
    drawing,
    independent,
    modules,
    one_start,
    shared_directions,
)

BUDGETS = (0.05, 0.2)
COUNTED = 0.06
"""What headers, tables and a real coder may add to the bytes that entropies say.

3 to 5 % measured.
"""
CLEAR = 0.1
"""A saving that nobody could call noise."""
RANDOM = 0.02
"""How far errors in planted random bases scatter around their mean."""


def analyze_all(adapters: Mapping[str, Adapter]) -> Analysis:
    return analyze(adapters, budgets=BUDGETS)


def kinds(analysis: Analysis) -> set[str]:
    return {statement.kind for statement in analysis.statements}


def test_adapters_that_share_nothing_gain_from_precision() -> None:
    analysis = analyze_all(independent(6))
    assert kinds(analysis) == {"precision"}
    assert analysis.verdict.startswith("These gain from precision, not from sharing: ")
    assert all(forecast.saving < 0.01 for forecast in analysis.forecasts)
    assert (analysis.kinships, analysis.continued) == ((), ())


def test_what_is_left_out_of_independent_adapters_is_what_a_random_basis_loses() -> None:
    for left_out in analyze_all(independent(6)).leave_one_out:
        assert left_out.error == pytest.approx(left_out.chance, abs=RANDOM)
        assert left_out.error_a == pytest.approx(left_out.chance_a, abs=2 * RANDOM)


def test_a_common_start_is_found_on_a_alone() -> None:
    analysis = analyze_all(one_start(6))
    assert kinds(analysis) == {"one start", "saving"}
    (kin,) = analysis.kinships
    assert (kin.kind, len(kin.adapters)) == ("one start", 6)
    assert kin.overlap_a > 0.8 > 0.4 > kin.overlap_b
    assert "A of all 6 adapters" in analysis.verdict
    assert all(forecast.saving > CLEAR for forecast in analysis.forecasts)


def test_directions_shared_on_both_sides_are_no_common_start() -> None:
    analysis = analyze_all(shared_directions(8))
    assert kinds(analysis) == {"shared directions", "saving"}
    assert [(kin.kind, len(kin.adapters)) for kin in analysis.kinships] == [
        ("shared directions", 8)
    ]
    assert all(left_out.error < 0.2 < left_out.chance for left_out in analysis.leave_one_out)
    assert all(
        min(forecast.joint, forecast.references) < 0.6 * forecast.alone
        for forecast in analysis.forecasts
    )


def test_continued_versions_are_named_with_the_one_before() -> None:
    analysis = analyze_all(continued())
    assert [(version.adapter, version.previous) for version in analysis.continued] == [
        ("v2", "v1"),
        ("v3", "v2"),
    ]
    assert "v2 continues v1 (dW differs by 0." in analysis.verdict
    assert kinds(analysis) == {"continued", "saving"}
    assert all(
        forecast.references < (1 - CLEAR) * forecast.alone
        for forecast in analysis.forecasts
        if forecast.budget == 0.05
    )


def test_the_same_adapter_in_another_gauge_is_the_same() -> None:
    first = independent(1)["own-0"]
    analysis = analyze_all({"one": first, "other": change_gauge(first)})
    assert next(statement.kind for statement in analysis.statements) == "same"
    assert "other is the same adapter as one." in analysis.verdict


def test_a_mixed_collection_is_told_apart() -> None:
    analysis = analyze_all({**one_start(3), **independent(3), **continued()})
    assert [set(kin.adapters) for kin in analysis.kinships] == [{"seed-0", "seed-1", "seed-2"}]
    assert {version.adapter for version in analysis.continued} == {"v2", "v3"}
    (precision,) = (statement for statement in analysis.statements if statement.kind == "precision")
    assert set(precision.adapters) == {"own-0", "own-1", "own-2"}
    assert "The other 3 (own-0, own-1, own-2) gain from precision" in precision.text


def test_one_adapter_has_nothing_to_share_with() -> None:
    analysis = analyze_all(independent(1))
    assert kinds(analysis) == {"one adapter"}
    assert analysis.leave_one_out == ()


def test_ranks_may_differ_and_modules_be_missing() -> None:
    draw = drawing(5)
    small = adapter_from_rows({modules()[0]: (draw(2, 128), draw(2, 96))})
    large = adapter_from_rows(
        {name: (draw(8, 128), draw(8, 96)) for name in [*modules(), "layers.9.other"]}
    )
    analysis = analyze_all({"small": small, "large": large, **independent(2)})
    assert {(spectrum.module, spectrum.adapters) for spectrum in analysis.spectra} >= {
        (modules()[0], 4),
        ("layers.9.other", 1),
    }
    assert kinds(analysis) == {"precision"}


def test_a_module_without_a_product_is_no_trouble() -> None:
    draw = drawing(6)
    idle = {"layers.9.idle": (draw(4, 128), 0 * draw(4, 96))}
    adapters = {
        f"t{number}": adapter_from_rows({modules()[0]: (draw(4, 128), draw(4, 96)), **idle})
        for number in range(3)
    }
    analysis = analyze_all(adapters)
    assert {spectrum.module for spectrum in analysis.spectra} == {modules()[0]}
    json.dumps(document(analysis), allow_nan=False)


def test_adapters_that_do_nothing_are_analysed_too() -> None:
    draw = drawing(7)
    analysis = analyze_all(
        {
            f"t{number}": adapter_from_rows({modules()[0]: (draw(4, 128), 0 * draw(4, 96))})
            for number in range(2)
        }
    )
    assert analysis.spectra == ()
    json.dumps(document(analysis), allow_nan=False)


def test_the_bytes_forecast_are_those_of_commits(registry: sr.Registry) -> None:
    folders = {"gloss": DEMO / "wn-pos-gloss" / "v1", "syn": DEMO / "wn-syn-ant" / "v1"}
    forecast = analyze(folders, budgets=(0.01,)).forecasts[0]
    size_bytes = 0
    for name, folder in folders.items():
        registry.commit(folder, task=name, budget=0.01)
        size_bytes += registry.context.reader().open(_adapter_digest(registry, name)).size_bytes
    assert 1.0 < size_bytes / forecast.references < 1.0 + COUNTED


def _adapter_digest(registry: sr.Registry, task: str) -> Digest:
    with registry.context.reading() as session:
        row = version_lookups.latest_version(session, "all-minilm-l6-v2", task)
    assert row is not None
    return row.adapter_digest


def test_the_spectrum_counts_directions() -> None:
    analysis = analyze_all(shared_directions(8, noise=0.0))
    for spectrum in analysis.spectra:
        assert spectrum.k50 <= spectrum.k80 <= spectrum.k90 <= spectrum.k99 <= 6
        assert spectrum.explained[-1][1] == pytest.approx(1.0)
    assert analysis.break_even < 2.5


def test_a_strong_adapter_does_not_make_a_spectrum_look_shared() -> None:
    draw = drawing(8)
    size = [100.0, 1.0, 1.0, 1.0]
    adapters = {
        f"t{number}": adapter_from_rows(
            {name: (draw(4, 128), size[number] * draw(4, 96)) for name in modules()[:1]}
        )
        for number in range(4)
    }
    weak = {name: (draw(4, 128), draw(4, 96)) for name in modules()[1:]}
    adapters["t4"] = adapter_from_rows({**weak, modules()[0]: (draw(4, 128), 1e-3 * draw(4, 96))})
    assert {
        spectrum.k90 for spectrum in analyze_all(adapters).spectra if spectrum.adapters == 5
    } <= set(range(14, 21))


def test_break_even_without_sharing_is_near_the_number_of_adapters() -> None:
    assert 4.5 < analyze_all(independent(6)).break_even <= 6.5


def test_no_break_even_is_told_where_sharing_saves_nothing() -> None:
    facts = {
        saving: dict(analyze_all(adapters).sheet().facts)["break-even"]
        for saving, adapters in ((False, independent(4)), (True, shared_directions(8, noise=0.0)))
    }
    assert facts[False] == "none: sharing saves nothing to speak of at these budgets"
    assert facts[True].startswith("from more than ")


def test_a_folder_is_searched_and_named_by_what_tells_apart() -> None:
    analysis = analyze(DEMO, budgets=(0.1,))
    assert "wn-pos-gloss/v2" in {adapter.name for adapter in analysis.adapters}
    assert {(version.adapter, version.previous) for version in analysis.continued} >= {
        ("wn-pos-gloss/v2", "wn-pos-gloss/v1")
    }


def test_a_list_of_directories_and_a_mapping_say_the_same() -> None:
    folders = [DEMO / "wn-pos-gloss" / "v1", DEMO / "wn-syn-ant" / "v1"]
    listed = analyze(folders, budgets=(0.1,))
    assert [adapter.name for adapter in listed.adapters] == ["wn-pos-gloss/v1", "wn-syn-ant/v1"]
    assert (
        analyze(
            dict(zip(("wn-pos-gloss/v1", "wn-syn-ant/v1"), folders, strict=True)), budgets=(0.1,)
        )
        == listed
    )


def test_a_space_is_analysed_as_it_is_stored(registry: sr.Registry) -> None:
    for name, adapter in one_start(3).items():
        registry.commit(adapter, task=name)
    registry.commit(independent(1)["own-0"], task="gone")
    registry.drop("gone")
    analysis = analyze(registry, budgets=(0.1,))
    assert [adapter.name for adapter in analysis.adapters] == [
        "tiny/seed-0@v1",
        "tiny/seed-1@v1",
        "tiny/seed-2@v1",
    ]
    assert [kin.kind for kin in analysis.kinships] == ["one start"]
    assert analysis.notes[0].startswith("adapters are taken as stored: ")
    assert analyze(registry.space("tiny"), budgets=(0.1,)) == analysis


def test_a_space_without_tasks_has_nothing_to_analyse(registry: sr.Registry) -> None:
    registry.commit(independent(1)["own-0"], task="gone")
    registry.drop("gone")
    with pytest.raises(sr.NotFoundError):
        analyze(registry)


@pytest.mark.parametrize("subject", [7, [], {}, None])
def test_what_no_adapter_can_be_read_from_is_invalid(subject: object) -> None:
    with pytest.raises(sr.InvalidInputError):
        analyze(subject)


def test_a_folder_without_adapters_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(sr.NotFoundError):
        analyze(tmp_path)
    with pytest.raises(sr.NotFoundError):
        analyze(tmp_path / "absent")


@pytest.mark.parametrize("budgets", [(), (0.0,), (1.5,), ("a",)])
def test_budgets_are_checked(budgets: tuple[float, ...]) -> None:
    with pytest.raises(sr.InvalidInputError):
        analyze(independent(1), budgets=budgets)


def test_a_folder_given_twice_is_invalid() -> None:
    with pytest.raises(sr.InvalidInputError):
        analyze([DEMO / "wn-pos-gloss" / "v1"] * 2)


def test_progress_is_told() -> None:
    told: list[tuple[str, int, int]] = []
    analyze(
        independent(2),
        budgets=(0.1,),
        progress=lambda doing, done, total: told.append((doing, done, total)),
    )
    assert {doing.split()[0] for doing, _, _ in told} == {"reading", "spectra", "leaving", "coding"}
    assert all(done <= total for _, done, total in told)


def test_text_html_and_json_say_the_verdict() -> None:
    analysis = analyze_all({**one_start(2), "<b>": independent(1)["own-0"]})
    assert analysis.verdict in " ".join(str(analysis).split())
    assert "&lt;b&gt;" in analysis._repr_html_()
    assert "<b>," not in analysis._repr_html_()
    assert (
        json.loads(json.dumps(document(analysis), allow_nan=False))["verdict"] == analysis.verdict
    )
    assert repr(analysis) == "<Analysis what 3 adapters share>"


def test_parts_are_connected_through_others() -> None:
    import torch

    linked = torch.tensor([[0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]]).bool()
    assert connected_parts(linked) == [(0, 1, 2)]


def test_two_that_share_both_sides_are_not_said_to_share_one() -> None:
    analysis = analyze_all(shared_directions(2, shared=5))
    assert [kin.kind for kin in analysis.kinships] == ["shared directions"]
    assert "B does not" not in analysis.verdict
