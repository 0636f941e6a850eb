"""The sensors: one watches the bucket, one rebuilds the collections whose frames changed, one tells people what goes wrong."""
