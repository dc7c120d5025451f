"""What an attacker does to a finished model: params in, params out."""
