"""One forward pass, observed: states and attention reduced on the device, then handed to the host. No files."""
