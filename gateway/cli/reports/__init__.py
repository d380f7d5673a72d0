"""What commands print of answers of the gateway: its status, differences of outcomes, changes of mapping files."""
