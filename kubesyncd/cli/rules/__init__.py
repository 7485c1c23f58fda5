"""Check manifests, scripts and old configurations: pure rules behind operator commands."""
