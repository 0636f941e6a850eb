"""Incidents and the notifications about them: the quarantine list, failed runs, what is due, message texts, and dispatch.

The channels that carry a message (SNS, file, log) are in resources/notifier.py.
"""
