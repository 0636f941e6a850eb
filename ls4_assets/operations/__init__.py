"""What operators run: status, reconcile, adopt."""
