"""The one exception of the build part."""


class BuildError(Exception):
    """An expected failure. Its text is one line: what happened, what it means, what to do next."""
