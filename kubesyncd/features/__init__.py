"""Reconcile each feature: observe, plan, act, remember."""
