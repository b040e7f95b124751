"""What a snapshot is: values without I/O."""
