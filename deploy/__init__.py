"""Production: the images, Dagster's configuration, and (in `aws`) the infrastructure. Nothing here is imported by the platform itself."""
