"""Phase validate: old against new, measures, verdicts and the gate."""
