"""Production: the container images, Dagster's configuration, and the AWS infrastructure in `aws`.

The platform itself does not import this package; one machine's services are in `ls4_assets.local`.
"""
