"""The index database: tables, migrations and the queries that belong to one table.

Queries that join tables for one purpose are with their caller (ingest, publishing, operations, notifications).
"""
