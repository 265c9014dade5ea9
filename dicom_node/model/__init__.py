"""What the node knows, as frozen dataclasses and state tables. No I/O."""
