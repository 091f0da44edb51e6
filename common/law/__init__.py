"""The law among institutions: what they all compute alike, and the coordinator never needs."""
