"""How Dagster runs here: run launchers (local processes, ECS tasks), its storage, its backfills, and opening its instance.

Private Dagster API belongs here and in `assets.event_store`; test_dagster_api.py lists the modules that may use it, with the
reasons. The work inside a run is in `assets` and `processing`, and the service processes of one machine are in `local`.
"""
