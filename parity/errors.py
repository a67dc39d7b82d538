"""What is wrong with what the user gave us."""


class BadInput(Exception):
    """Exit 2. The message says what was expected, what came, and what to do."""
