"""The cluster executor: the plans of the core made true through the Kubernetes API."""
