"""From a routed series to findings."""
