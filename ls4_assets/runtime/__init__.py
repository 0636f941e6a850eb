"""Run launchers and the Dagster instance."""
