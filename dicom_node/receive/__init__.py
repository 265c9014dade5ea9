"""How instances come in: from the network or a folder to a file and a row."""
