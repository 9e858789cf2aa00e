"""The backfill by batch jobs of the provider: half the price, an answer within a day, no lease meanwhile."""
