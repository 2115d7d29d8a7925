"""The suite: models on sets by protocols, with a report."""
