"""`parity doctor`."""

from __future__ import annotations

from parity.cli.app import app


@app.command()
def doctor() -> int:
    """Show versions, devices and precision settings of both sides, and whether each can run. Exit 3 if one cannot."""
    from parity.doctor import examine

    return examine()
