"""The studies of this companion: for each notebook its protocol, its tables and what its claims measure."""
