"""A call: from a decoded message to the outcome that goes back."""
