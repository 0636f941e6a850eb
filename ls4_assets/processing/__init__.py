"""The work on one frame."""
