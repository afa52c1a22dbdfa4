"""docs/claims.md is what benchmarks/claims.py says, and that says what the shapes say."""

import pytest

from benchmarks.claims import GLUE_8, GLUE_32, LOTS, PAGE, Setting, page


def test_the_page_is_the_output_of_the_script() -> None:
    assert PAGE.read_text(encoding="utf-8") == page()


def test_parts_are_counted_by_hand() -> None:
    assert (GLUE_32.adapter, GLUE_32.basis, GLUE_32.coefficients) == (1_179_648, 1_179_648, 12_288)
    assert (LOTS.adapter, LOTS.basis, LOTS.coefficients) == (9_437_184, 150_994_944, 786_432)


@pytest.mark.parametrize("setting", [GLUE_8, GLUE_32, LOTS])
def test_it_pays_from_the_break_even_on_and_not_before(setting: Setting) -> None:
    assert setting.ratio(setting.break_even) > 1.0 >= setting.ratio(setting.break_even - 1)
