"""One machine: everything that ``make demo`` needs and that production gets from elsewhere.

A private PostgreSQL cluster, a small process supervisor, a synthesised sample survey and the demonstration
that ties them together. Nothing outside this package imports from it, the command line apart.
"""
