"""The work behind the commands, one module or folder a verb."""
