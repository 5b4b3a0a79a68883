"""Models of cases and bags: pooling, linear models, their inputs and their controls."""
