"""Test suites that ship with the package, for those who extend it (extra `testing`)."""

import pytest

# the asserts of a suite then say what was compared, as those of any test module do
pytest.register_assert_rewrite("share_registry.testing.stores")
