"""The command line: it parses, calls, prints, and chooses the exit code. Frameworks are loaded in workers only.

One file a command; what several of them take is in options.py, and which cases that means in choice.py.
"""

from parity.cli import bench, doctor, goldens, merge, mutate, run, show, trace
from parity.cli.app import app, main

__all__ = ["app", "bench", "doctor", "goldens", "main", "merge", "mutate", "run", "show", "trace"]
