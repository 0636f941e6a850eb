"""Production: the images, Dagster's configuration, and in `aws` the infrastructure. The platform itself imports nothing of it."""
