"""The entry point: it registers the plugin under its module's own name.

So it is there once, whoever else names it, with `-p parity.pytest_plugin` or in `pytest_plugins`; an entry point that
was the plugin itself would be refused as "already registered under a different name".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    del parser
    pluginmanager.import_plugin("parity.pytest_plugin")  # does nothing where it is registered
