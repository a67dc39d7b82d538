"""Ends the process while it is imported, as a script does."""

import sys

sys.exit(3)
