"""Deep Compression: codebooks, positions, entropy coding and the .y5z container."""
