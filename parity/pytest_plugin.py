"""The pytest plugin: each case of a suite or of a pair is a test of its own.

    @pytest.mark.parity(pairs="examples/parity_blocks.py")  # or suite="smoke", candidate="my_port.attention:Attend"
    def test_the_port(parity_case):
        parity_case.check()

The marker takes `pairs=` with the keywords of `parity.check`, or else those of `parity.check_attention`; several
markers add up. A case that is skipped is a skipped test, one that fails or is inconclusive a failed one, an error an
error.
`assert_parity` is a fixture, too: `parity.assert_parity`, with its results in the report of `--parity-report`.

Nothing of parity is imported until a test asks for a case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from parity.pytest_cases import Judge, ParityCase
    from parity.results import Report

_JUDGE = pytest.StashKey["Judge"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    words = "write all results of parity to FILE, by its ending .json, .xml (JUnit) or .html"
    parser.getgroup("parity").addoption("--parity-report", metavar="FILE", type=Path, help=words)


def pytest_configure(config: pytest.Config) -> None:
    words = "run the test, which takes parity_case, once for each case; the keywords are those of parity.check"
    config.addinivalue_line("markers", f"parity(pairs=..., **options): {words}")
    words = "the same; the keywords are those of parity.check_attention"
    config.addinivalue_line("markers", f"parity(suite=..., candidate=..., **options): {words}")
    path = config.getoption("parity_report")
    if path is None:
        return
    from parity.errors import BadInput
    from parity.pytest_report import ReportFile, Sender

    config.pluginmanager.register(Sender(_judge(config).take))
    if not hasattr(config, "workerinput"):  # a process that pytest-xdist started
        try:
            config.pluginmanager.register(ReportFile(path))
        except BadInput as error:
            raise pytest.UsageError(str(error)) from None


def pytest_unconfigure(config: pytest.Config) -> None:
    if _JUDGE in config.stash:
        config.stash[_JUDGE].close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test for each case that the markers of the function name."""
    markers = list(metafunc.definition.iter_markers("parity"))
    if "parity_case" not in metafunc.fixturenames:
        if markers and markers[0] in metafunc.definition.own_markers:  # not that of its class or module
            raise _misused(metafunc, "is marked parity; let it take parity_case, the case to check")
        return
    if not markers:
        raise _misused(metafunc, "takes parity_case; mark it @pytest.mark.parity(pairs=...) or (suite=...)")
    from parity.errors import BadInput
    from parity.pytest_cases import wanted

    try:
        found = [each for marker in markers for each in wanted(metafunc.config.rootpath, *marker.args, **marker.kwargs)]
    except BadInput as error:
        raise _misused(metafunc, f"is marked parity: {error}") from None
    metafunc.parametrize("parity_case", found, indirect=True, ids=[each.name for each in found])


@pytest.fixture
def parity_case(request: pytest.FixtureRequest) -> ParityCase:
    """The case of this test, judged. `check()` raises what was found; `report` is all of it."""
    from parity.errors import BadInput

    try:
        case = _judge(request.config).judged(request.param)
    except BadInput as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None
    if case.is_error:
        pytest.fail(case.fault(), pytrace=False)
    return case


@pytest.fixture
def assert_parity(request: pytest.FixtureRequest) -> Callable[..., Report]:
    """`parity.assert_parity`, whose results stand in the report of --parity-report as well."""
    return _judge(request.config).assert_parity


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """A test that forgets to check its case does so all the same."""
    yield
    case: Any = getattr(item, "funcargs", {}).get("parity_case")
    # Somebody's own fixture of that name is none of ours.
    if hasattr(case, "seen") and not case.seen and (fault := case.fault()):
        pytest.fail(fault, pytrace=False)


def _judge(config: pytest.Config) -> Judge:
    if _JUDGE not in config.stash:
        from parity.pytest_cases import Judge

        config.stash[_JUDGE] = Judge()
    return config.stash[_JUDGE]


def _misused(metafunc: pytest.Metafunc, words: str) -> Exception:
    return pytest.Collector.CollectError(f"{metafunc.function.__name__} {words}")
