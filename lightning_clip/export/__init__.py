"""Your weights out: every format that both sides can hold exactly."""
