"""Compare bucket, Postgres and Dagster in both directions, and fix what differs.

model: the types that the others share; observed_state and recorded_state: what the bucket holds and what the databases record of
one collection; plan: the differences, found by pure functions; apply: carry out a plan; run: all collections, with the guards;
messages: what the operator reads. Only one collection is in memory at a time.
"""
