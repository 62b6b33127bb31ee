"""How a run is planned, trained, saved and resumed."""
