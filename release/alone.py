"""What the other framework's package says where that framework is not."""

import importlib


def check_missing(package: str, framework: str) -> None:
    """`package` cannot be imported, and the reason is that there is no `framework`."""
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        missing = error.name
    else:
        missing = f"nothing: {package} was imported"
    assert missing == framework, missing
