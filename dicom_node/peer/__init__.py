"""What delivering and pulling share: associations, HTTP sessions and queries towards other systems."""
