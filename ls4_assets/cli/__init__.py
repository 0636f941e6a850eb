"""The `ls4` commands, one module per group: they read options, call one function of another package and print its result.

The procedures behind them are in `operations`, `db`, `ingest` and `local`.
"""
