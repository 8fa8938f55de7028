"""The local executor: the plans of the pure core, acted out as child processes of `paddock up`."""
