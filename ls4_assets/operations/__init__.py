"""Procedures for operators: `status` (counts and problems), `reconcile` (compare and fix all stores), `adopt` (take over COGs).

The commands with their options and exit codes are in `cli`. Scheduled work is in `assets` and `sensors`, and mails to operators
are in `notifications`.
"""
