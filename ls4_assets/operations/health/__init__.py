"""Is the platform alive? Facts from Postgres and Dagster, the judgment of them, metrics, and the dead-man's alarm.

`ls4 status` and the monitor use it. What was dropped and where it is now belongs in `operations.status`; messages
about files and collections are sent by the sensor `notifications`.
"""
