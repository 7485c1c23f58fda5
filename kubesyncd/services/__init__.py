"""Define, install and update the services of features that only Kubernetes runs."""
