"""The verbs of the command line on a cluster. Imported only when a verb is for one: the client is slow to import."""
