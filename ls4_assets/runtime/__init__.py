"""How runs are launched (warm processes, local processes, ECS tasks) and how a command opens the Dagster instance.

Run launchers need private Dagster API; apart from `assets.event_store`, it belongs here. The work inside a run is in `assets` and
`processing`, and the service processes of one machine are in `local`.
"""
