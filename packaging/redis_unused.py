"""Stand in for a module of redis that kubesyncd never uses; packaging/build-deb copies it there."""

# ruff: noqa: INP001 (it is copied)


def __getattr__(name):
    """Return an empty class for any public name."""
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {})
