"""The bridge: a linear map from the new model's vectors to the old one's, that keeps old vectors searchable."""
