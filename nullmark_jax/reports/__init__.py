"""What a run's numbers become for a reader: figures."""
