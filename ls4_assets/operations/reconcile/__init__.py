"""Whether all parts of the archive are in step, and what brings them there: bucket, Postgres and Dagster compared both ways.

facts: what the others speak of; plan: what is out of step, decided by pure functions; bucket and known: what lies there and what
is held to lie there, of one collection; act: carrying a plan out; run: all collections, with the guards; words: what the operator
reads. One collection is in memory at a time.
"""
