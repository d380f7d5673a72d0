"""Reference pages of the endpoints: every method with its parameters, result, errors and examples."""
