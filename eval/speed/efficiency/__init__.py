"""vidcom2 efficiency: where time and memory go between video file and answer."""
