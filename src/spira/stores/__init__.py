"""What SPIRA adds to obstore and MLflow, and nothing more."""
