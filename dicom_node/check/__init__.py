"""What the node proves of each result before it leaves."""
