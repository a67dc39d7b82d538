"""The JUnit report, as CI systems read it: one test case a case."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

from parity.results import Report

# What XML 1.0 cannot hold, even escaped.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TAG = {"failed": "failure", "inconclusive": "failure", "error": "error", "skipped": "skipped"}


def write(report: Report, path: Path) -> None:
    """An inconclusive case is a failure of type "inconclusive": CI must not take it for a pass."""
    counts = report.counts
    suite = ET.Element(
        "testsuite", name="parity", tests=str(len(report.results)),
        failures=str(counts["failed"] + counts["inconclusive"]), errors=str(counts["error"]),
        skipped=str(counts["skipped"]), time=f"{report.seconds:.3f}",
    )  # fmt: skip
    properties = ET.SubElement(suite, "properties")
    for name, value in report.environment.items():
        ET.SubElement(properties, "property", name=_clean(name), value=_clean(value))
    for result in report.results:
        case = ET.SubElement(
            suite, "testcase", classname=_clean(f"parity.{result.candidate}.{result.implementation}"),
            name=_clean(result.name), time=f"{result.seconds:.4f}",
        )  # fmt: skip
        if result.status in _TAG:
            message = f"{result.cause}: {result.reason}" if result.cause else result.reason
            element = ET.SubElement(case, _TAG[result.status], message=_clean(message), type=result.status)
            element.text = _clean(f"{message}\n{result.command}")
        if result.notes:
            ET.SubElement(case, "system-out").text = _clean("\n".join(result.notes))
    ET.indent(suite)
    ET.ElementTree(suite).write(path, encoding="utf-8", xml_declaration=True)


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("�", text)
