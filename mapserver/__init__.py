"""Serving: mapfiles, the configuration of MapServer and nginx, and the supervisor of the FastCGI workers."""
