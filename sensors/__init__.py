"""The sensors, one module each: ingest by polling or by events, publishing, statewide exports, notifications, reconciliation.

They are thin: what a tick does is in `ls4_assets.ingest`, `.publishing`, `.notifications` and `.operations`.
"""
