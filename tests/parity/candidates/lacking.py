"""Imports what is not installed."""

import no_such_package_here  # noqa: F401
