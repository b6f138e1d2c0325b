"""The exceptions of the build part."""


class BuildError(Exception):
    """An expected failure. Its text is one line: what happened, what it means, what to do next."""


class HostError(BuildError):
    """This host stands in the way (no room, say), and the sources may be as good as they like."""
